// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/dtype.hpp"

#include <bit>
#include <cstring>

namespace fedspallm {

std::string_view name_of(DType type) {
  switch (type) {
    case DType::f32:
      return "float32";
    case DType::f16:
      return "float16";
    case DType::bf16:
      return "bfloat16";
  }
  return "unknown";
}

float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U)
    return static_cast<std::uint16_t>((bits >> 16) | 0x40U);  // quiet NaN
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

float f16_to_float(std::uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}

std::uint16_t float_to_f16(float value) {
  const auto half = static_cast<_Float16>(value);
  std::uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

float round_to(DType type, float value) {
  switch (type) {
    case DType::f32:
      return value;
    case DType::f16:
      return f16_to_float(float_to_f16(value));
    case DType::bf16:
      return bf16_to_float(float_to_bf16(value));
  }
  return value;
}

void widen(DType type, const void* source, float* destination, std::size_t count) {
  if (type == DType::f32) {
    if (count > 0) std::memcpy(destination, source, count * sizeof(float));
    return;
  }
  const auto* bytes = static_cast<const unsigned char*>(source);
  const bool is_bf16 = type == DType::bf16;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, bytes + 2 * i, 2);
    destination[i] = is_bf16 ? bf16_to_float(bits) : f16_to_float(bits);
  }
}

void narrow(DType type, const float* source, void* destination, std::size_t count) {
  if (type == DType::f32) {
    if (count > 0) std::memcpy(destination, source, count * sizeof(float));
    return;
  }
  auto* bytes = static_cast<unsigned char*>(destination);
  const bool is_bf16 = type == DType::bf16;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint16_t bits = is_bf16 ? float_to_bf16(source[i]) : float_to_f16(source[i]);
    std::memcpy(bytes + 2 * i, &bits, 2);
  }
}

void round_in_place(DType type, std::span<float> values) {
  if (type == DType::f32) return;
  for (float& value : values) value = round_to(type, value);
}

}  // namespace fedspallm
