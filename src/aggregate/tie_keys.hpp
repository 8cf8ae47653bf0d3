// SPDX-License-Identifier: Apache-2.0
// Purpose: the order in which weights of equal votes go, as unsigned integers: smaller key first, then
// smaller index.
#pragma once

#include "expansion.hpp"
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace fedspallm::aggregate {

/// Keys of the 64 weights of one tile. Patterns of non-negative floats and doubles grow with their values.
using TileKeys = std::array<std::uint64_t, 64>;

inline void tie_keys(const DenseMerge& merge, std::int64_t tile, TileKeys& keys) {
  keys.fill(0);
  if (merge.tie == TieRule::index) return;
  std::array<float, 64> values;
  const std::int64_t start = tile * 64;
  widen(merge.dtype, merge.elements + static_cast<std::size_t>(start) * size_of(merge.dtype), values.data(),
        64);
  if (merge.tie == TieRule::magnitude) {
    for (std::size_t i = 0; i < 64; ++i) keys[i] = std::bit_cast<std::uint32_t>(std::abs(values[i]));
    return;
  }
  std::size_t column = static_cast<std::size_t>(start % merge.cols);
  const auto cols = static_cast<std::size_t>(merge.cols);
  for (std::size_t i = 0; i < 64; ++i) {
    const auto value = static_cast<double>(values[i]);
    keys[i] = std::bit_cast<std::uint64_t>(value * value * merge.column_weights[column]);
    column = column + 1 == cols ? 0 : column + 1;
  }
}

}  // namespace fedspallm::aggregate
