// SPDX-License-Identifier: Apache-2.0
// Purpose: how many pieces of a size cover a length, and the length that they cover. Non-goals:
// rounding of floating-point numbers.
#pragma once

#include <cstdint>

namespace fedspallm {

/// @pre value >= 0, divisor >= 1
[[nodiscard]] constexpr std::int64_t divide_up(std::int64_t value, std::int64_t divisor) {
  return (value + divisor - 1) / divisor;
}
/// The least multiple that is not below `value`. @pre as divide_up()
[[nodiscard]] constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return divide_up(value, multiple) * multiple;
}

}  // namespace fedspallm
