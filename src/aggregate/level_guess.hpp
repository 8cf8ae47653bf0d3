// SPDX-License-Identifier: Apache-2.0
// Purpose: down to which number of votes mask expansion goes (FedSpaLLM eq. 7), exactly from a histogram; and
// a guess of that level and of the last tied key to go, from a sample of the tiles. With a good guess one
// pass over the tiles is enough to find both exactly; a bad one costs time and never changes a result.
#pragma once

#include "tie_order.hpp"
#include <cstdint>
#include <span>

namespace fedspallm::aggregate {

/// Weights kept by 1 .. level - 1 clients go; of those kept by `level` clients the first `rank` go.
struct Level {
  std::uint32_t level = 0;  // 0: nothing goes
  std::int64_t rank = 0;    // 1 .. number of weights at the level
};

/// @param kept  bin k = weights that k clients kept. @param count  weights to drop beyond those that nobody
/// kept
[[nodiscard]] Level find_level(std::span<const std::int64_t> kept, std::int64_t count);

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
