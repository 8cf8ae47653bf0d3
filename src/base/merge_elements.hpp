// SPDX-License-Identifier: Apache-2.0
// Purpose: what a merge does with one weight, the same words for the CPU's kernels and the GPU's: a float to
// a multiple of 2^q, a sum to the double that rounds to the mean, the keys by which tied weights go. Local to
// the including file (no code shared between kernel sets), no std headers: *.isa.cpp include it.
//
// Why the result is the nearest element to the exact sum 2^q / n:
//  1. |sum| <= 2^56 is cut to 53 bits by rounding to odd (only where it has more). The cut number lies on the
//     same side of n * midpoint for each midpoint between elements, because with n < 2^24 those are multiples
//     of 2^4 there.
//  2. The double division then rounds correctly, and a quotient of a 53-bit integer by n < 2^24 that is not a
//     midpoint is further than half a unit of double precision away from one. So the double lies on the right
//     side, too.
//  3. Times 2^q is exact in double. Double to f32 is one rounding; to f16 and bf16 it goes over a float that
//     is rounded to odd, which has enough bits to make the second rounding the correct one.
#pragma once

#include "host_device.hpp"
#include <cstdint>

namespace fedspallm {
namespace {

/// The integer multiple of 2^q nearest to a float, halves away from zero.
/// @param bits  pattern of a finite float with |value| <= 2^(q + 56); a larger one gives some number, no trap
FEDSPALLM_HOST_DEVICE inline std::int64_t quantize_bits(std::uint32_t bits, int q) {
  const std::uint32_t exponent = (bits >> 23) & 0xffU;
  const std::uint64_t mantissa = (bits & 0x7fffffU) | (exponent != 0 ? 0x800000U : 0U);
  const int shift =
      static_cast<int>(exponent != 0 ? exponent : 1U) - 150 - q;  // value = mantissa 2^(shift + q)
  std::uint64_t magnitude = 0;
  if (shift >= 0)
    magnitude = shift < 64 ? mantissa << shift : 0;
  else if (shift > -40)  // halves away from zero; below that mantissa 2^shift < 1/2
    magnitude = (mantissa + (std::uint64_t{1} << (-shift - 1))) >> -shift;
  return static_cast<std::int64_t>((bits >> 31) != 0 ? 0 - magnitude : magnitude);
}

constexpr std::int64_t kExact = std::int64_t{1} << 53;

/// @pre -1022 <= exponent <= 1023
FEDSPALLM_HOST_DEVICE inline double power_of_two(int exponent) {
  const std::uint64_t bits = static_cast<std::uint64_t>(1023 + exponent) << 52;
  double value;
  __builtin_memcpy(&value, &bits, 8);
  return value;
}

/// Step 1: a multiple of 8 where the sum has more than 53 bits. Two's complement: works for both signs.
FEDSPALLM_HOST_DEVICE inline std::int64_t cut_to_odd(std::int64_t sum) {
  if (sum > -kExact && sum < kExact) return sum;
  return (sum & ~std::int64_t{7}) | ((sum & 7) != 0 ? 8 : 0);
}

/// Steps 1 to 3: the double that becomes the element. @param factor  power_of_two(q)
FEDSPALLM_HOST_DEVICE inline double mean_of(std::int64_t sum, std::uint32_t divisor, double factor) {
  return static_cast<double>(cut_to_odd(sum)) / divisor * factor;
}

/// Pattern of the float next to `value` towards zero, with its last bit set unless it equals `value`.
FEDSPALLM_HOST_DEVICE inline std::uint32_t float_to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  const auto back = static_cast<double>(nearest);
  std::uint32_t bits;
  __builtin_memcpy(&bits, &nearest, 4);
  if (__builtin_fabs(back) > __builtin_fabs(value)) --bits;
  return back != value ? bits | 1U : bits;
}

/// The bf16 nearest to what was rounded to odd.
FEDSPALLM_HOST_DEVICE inline std::uint16_t odd_to_bf16(std::uint32_t odd) {
  return static_cast<std::uint16_t>((odd + 0x7fffU + ((odd >> 16) & 1U)) >> 16);
}

/// Keys are patterns of non-negative doubles: these grow with their values. The square of an element is exact
/// in double, so that a score has one rounding.
FEDSPALLM_HOST_DEVICE inline std::uint64_t key_of(double value) {
  std::uint64_t key;
  __builtin_memcpy(&key, &value, 8);
  return key;
}
/// @pre column_weight >= 0
FEDSPALLM_HOST_DEVICE inline std::uint64_t score_key(float element, double column_weight) {
  const auto value = static_cast<double>(element);
  return key_of(value * value * column_weight);
}
FEDSPALLM_HOST_DEVICE inline std::uint64_t magnitude_key(float element) {
  return key_of(__builtin_fabs(static_cast<double>(element)));
}

}  // namespace
}  // namespace fedspallm
