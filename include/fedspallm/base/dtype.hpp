// SPDX-License-Identifier: Apache-2.0
// Purpose: the element types that models store (f32, f16, bf16) and their exact conversions.
// Widening is exact; narrowing rounds to nearest, ties to even. Non-goal: arithmetic in 16 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace fedspallm {

enum class DType : std::uint8_t { f32 = 0, f16 = 1, bf16 = 2 };

[[nodiscard]] constexpr std::size_t size_of(DType type) {
  return type == DType::f32 ? 4 : 2;
}
/// "float32", "float16", "bfloat16".
[[nodiscard]] std::string_view name_of(DType type);

[[nodiscard]] float bf16_to_float(std::uint16_t bits);
[[nodiscard]] std::uint16_t float_to_bf16(float value);
[[nodiscard]] float f16_to_float(std::uint16_t bits);
[[nodiscard]] std::uint16_t float_to_f16(float value);

/// The float nearest to `value` that `type` can hold. NaN stays NaN, overflow gives infinity.
[[nodiscard]] float round_to(DType type, float value);

/// Widens `count` elements at `source` (any alignment) to float.
void widen(DType type, const void* source, float* destination, std::size_t count);
/// Narrows `count` floats to `type` at `destination` (any alignment).
void narrow(DType type, const float* source, void* destination, std::size_t count);
/// Replaces each element by round_to(type, element).
void round_in_place(DType type, std::span<float> values);

}  // namespace fedspallm
