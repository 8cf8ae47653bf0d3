// SPDX-License-Identifier: Apache-2.0
// Purpose: the tile, the element of a partial merge in memory and in the reduce transport. Plain arrays and
// no std headers, because the kernels of every instruction set include this file. Non-goals: what is done
// with tiles (merge.hpp).
#pragma once

#include <cstdint>

namespace fedspallm::aggregate {

constexpr std::int64_t kTile = 64;

/// 64 consecutive weights (row-major).
struct Tile {
  std::int64_t sum[kTile];    // of kept values, in multiples of 2^q
  std::uint32_t kept[kTile];  // number of clients that kept the weight
  friend bool operator==(const Tile&, const Tile&) = default;
};
static_assert(sizeof(Tile) == 768);

}  // namespace fedspallm::aggregate
