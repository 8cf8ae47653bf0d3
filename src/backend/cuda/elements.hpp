// SPDX-License-Identifier: Apache-2.0
// Purpose: what kernels do with one element, as functions for host and device alike, so that the CPU tests
// them (tests/backend/cuda_elements_test.cpp). Non-goals: loops, memory.
#pragma once

#include "fedspallm/base/dtype.hpp"

#include <math.h>  // the names that CUDA also has in device code, outside namespace std

#include "../../base/merge_elements.hpp"
#include "strided.hpp"
#include <cstdint>
#include <cstring>

namespace fedspallm::backend::cuda {

[[nodiscard]] FEDSPALLM_HOST_DEVICE inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline float float_of(std::uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/// Unsigned integers in the order of the scores; -0 and +0 are equal. @pre no NaN
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline std::uint32_t order_key(float score) {
  const std::uint32_t bits = bits_of(score + 0.0F);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}

[[nodiscard]] FEDSPALLM_HOST_DEVICE inline bool is_finite(float value) {
  return (bits_of(value) & 0x7f800000U) != 0x7f800000U;
}

/// w^2 / d^2, each step rounded on its own, as published.
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline float saliency(float w, float d) {
  return (w * w) / (d * d);
}

[[nodiscard]] FEDSPALLM_HOST_DEVICE inline float silu(float x) {
  return x / (1.0F + expf(-x));
}
/// x Phi(x); erfc keeps the digits of the left tail that 1 + erf would cancel.
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline float gelu(float x) {
  return 0.5F * x * erfcf(-0.70710678118654752F * x);
}
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline float relu(float x) {
  return x < 0.0F ? 0.0F : x;  // NaN stays NaN
}

// 16-bit formats: round to nearest, ties to even; the same bits as base/dtype.hpp.

[[nodiscard]] FEDSPALLM_HOST_DEVICE inline float widen_bf16(std::uint16_t bits) {
  return float_of(static_cast<std::uint32_t>(bits) << 16);
}
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline std::uint16_t narrow_bf16(float value) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);  // NaN
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

[[nodiscard]] FEDSPALLM_HOST_DEVICE inline float widen_f16(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t magnitude = bits & 0x7fffU;
  if (magnitude >= 0x7c00U)  // infinity, NaN (made quiet)
    return float_of(sign | 0x7f800000U | (magnitude > 0x7c00U ? 0x400000U : 0U) | (magnitude & 0x3ffU) << 13);
  if (magnitude >= 0x400U) return float_of(sign | ((magnitude << 13) + 0x38000000U));
  // Zero or subnormal: a multiple of 2^-24, exact in fp32.
  return float_of(sign | bits_of(static_cast<float>(magnitude) * 0x1p-24F));
}
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline std::uint16_t narrow_f16(float value) {
  const std::uint32_t bits = bits_of(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U)  // NaN, made quiet
    return static_cast<std::uint16_t>(sign | 0x7e00U | ((magnitude >> 13) & 0x3ffU));
  if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // 65520 and more
  if (magnitude >= 0x38800000U)                                                     // 2^-14: normal
    return static_cast<std::uint16_t>(sign |
                                      ((magnitude - 0x38000000U + 0xfffU + ((magnitude >> 13) & 1U)) >> 13));
  // Subnormal: adding 1/2 puts the multiple of 2^-24 into the last bits, rounded as the format wants.
  const float shifted = float_of(magnitude) + 0.5F;
  return static_cast<std::uint16_t>(sign | (bits_of(shifted) - 0x3f000000U));
}

[[nodiscard]] FEDSPALLM_HOST_DEVICE inline float round_element(DType type, float value) {
  if (type == DType::bf16) return widen_bf16(narrow_bf16(value));
  if (type == DType::f16) return widen_f16(narrow_f16(value));
  return value;
}

/// The integer multiple of 2^q nearest to a finite value. @pre |value| <= 2^(q + 56), else some number
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline std::int64_t quantize_element(float value, int q) {
  return quantize_bits(bits_of(value), q);
}

/// The element nearest to an exact mean, from the double that mean_of() gives.
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline std::uint16_t mean_to_bf16(double mean) {
  return odd_to_bf16(float_to_odd(mean));
}
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline std::uint16_t mean_to_f16(double mean) {
  return narrow_f16(float_of(float_to_odd(mean)));
}

/// Whether an element of an N:M group goes: its rank among the group's scores (ties: lowest index first) lies
/// below m - keep. score(i) gives the i-th score.
template <class Score>
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline bool kept_in_group(int element, int keep, int m, Score score) {
  const float own = score(element);
  int rank = 0;
  for (int i = 0; i < m; ++i) {
    const float other = score(i);
    rank += (other < own || (other == own && i < element)) ? 1 : 0;
  }
  return rank >= m - keep;
}

/// Of a kept weight, what decides when it goes: by fewer clients first, then by smaller key, then by index.
struct MergeOrder {
  std::uint32_t kept_by;  // 0: nobody kept it
  std::uint64_t key;
};
/// Whether a kept weight of an N:M group of a merge goes, so that `keep` are left. order(i) gives the i-th's.
/// @param kept  how many of the group somebody kept
template <class Order>
[[nodiscard]] FEDSPALLM_HOST_DEVICE inline bool goes_from_group(int element, int keep, int m, int kept,
                                                                Order order) {
  if (kept <= keep) return false;
  const MergeOrder own = order(element);
  int before = 0;
  for (int i = 0; i < m; ++i) {
    const MergeOrder other = order(i);
    if (other.kept_by == 0 || i == element) continue;
    const bool first = other.kept_by != own.kept_by ? other.kept_by < own.kept_by
                       : other.key != own.key       ? other.key < own.key
                                                    : i < element;
    before += first ? 1 : 0;
  }
  return before < kept - keep;
}

}  // namespace fedspallm::backend::cuda
