// SPDX-License-Identifier: Apache-2.0
// Purpose: a guess of the level down to which mask expansion goes (base/counts.hpp has the exact one) and of
// the last tied key to go, from a sample of the tiles. With a good guess one pass over the tiles is enough to
// find both exactly; a bad one costs time and never changes a result.
#pragma once

#include "fedspallm/base/counts.hpp"

#include "tie_order.hpp"
#include <cstdint>
#include <span>

namespace fedspallm::aggregate {

/// Keys among which the last one to go is expected.
struct KeyWindow {
  std::uint64_t low = 1;
  std::uint64_t high = 0;
  [[nodiscard]] bool empty() const { return low > high; }
};

struct LevelGuess {
  std::uint32_t level = 0;
  KeyWindow window;
};

/// @param rule  as for the averages to come; its level is not used
/// @param dropped_share  of all weights, when all is done
[[nodiscard]] LevelGuess guess_level(const Kernels& kernels, std::span<const Tile> tiles,
                                     const TieOrder& order, DType dtype, AverageRule rule,
                                     double dropped_share);

}  // namespace fedspallm::aggregate
