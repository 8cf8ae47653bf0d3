// SPDX-License-Identifier: Apache-2.0
// Purpose: one float to an integer multiple of 2^q, in integer arithmetic. For the plain code and, inlined,
// for the kernels; local to the including file (no code shared between kernel sets).
#pragma once

#include <cstdint>

namespace fedspallm::aggregate {
namespace {

/// @param bits  pattern of a finite float with |value| <= 2^(q + 56); a larger one gives some number, no trap
inline std::int64_t quantize_bits(std::uint32_t bits, int q) {
  const std::uint32_t exponent = (bits >> 23) & 0xffU;
  const std::uint64_t mantissa = (bits & 0x7fffffU) | (exponent != 0 ? 0x800000U : 0U);
  const int shift =
      static_cast<int>(exponent != 0 ? exponent : 1U) - 150 - q;  // value = mantissa 2^(shift + q)
  std::uint64_t magnitude = 0;
  if (shift >= 0)
    magnitude = shift < 64 ? mantissa << shift : 0;
  else if (shift > -40)  // halves away from zero; below that mantissa 2^shift < 1/2
    magnitude = (mantissa + (std::uint64_t{1} << (-shift - 1))) >> -shift;
  return (bits >> 31) != 0 ? -static_cast<std::int64_t>(magnitude) : static_cast<std::int64_t>(magnitude);
}

}  // namespace
}  // namespace fedspallm::aggregate
