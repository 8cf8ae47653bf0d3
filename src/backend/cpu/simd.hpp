// SPDX-License-Identifier: Apache-2.0
// Purpose: one vector type of the native width for the kernel files, on GCC's vector extensions, so that the
// same source is the baseline, AVX2 and AVX-512 kernel. Everything is in an unnamed namespace: nothing
// compiled for one instruction set may be shared with code compiled for another. Non-goals: doubles in
// vectors, gather and scatter.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int width = 16;
#elif defined(__AVX2__)
constexpr int width = 8;
#else
constexpr int width = 4;
#endif

typedef float Floats __attribute__((vector_size(width * 4)));         // NOLINT: attributes need typedef
typedef std::int32_t Ints __attribute__((vector_size(width * 4)));    // NOLINT
typedef std::uint32_t Words __attribute__((vector_size(width * 4)));  // NOLINT

inline Floats load(const float* source) {
  Floats value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
}

inline void store(float* destination, Floats value) {
  __builtin_memcpy(destination, &value, sizeof value);
}

inline Floats all(float value) {
  return value - Floats{};
}

/// The first `count` < width elements; the others are `rest`.
inline Floats load_part(const float* source, std::int64_t count, float rest) {
  Floats value = all(rest);
#if defined(__AVX512F__)
  const auto lanes = static_cast<__mmask16>((1U << count) - 1U);
  value = (Floats)_mm512_mask_loadu_ps((__m512)value, lanes, source);
#else
  for (int i = 0; i < width; ++i)
    if (i < count) value[i] = source[i];
#endif
  return value;
}

inline void store_part(float* destination, std::int64_t count, Floats value) {
#if defined(__AVX512F__)
  const auto lanes = static_cast<__mmask16>((1U << count) - 1U);
  _mm512_mask_storeu_ps(destination, lanes, (__m512)value);
#else
  for (int i = 0; i < width; ++i)
    if (i < count) destination[i] = value[i];
#endif
}

/// Lane-wise a > b ? a : b; b where either is NaN.
inline Floats larger(Floats a, Floats b) {
  return a > b ? a : b;
}

/// Lane i of the result is lane (i + by) mod width.
template <int by>
inline Floats rotated(Floats value) {
  Ints index;
  for (int i = 0; i < width; ++i) index[i] = (i + by) % width;
  return __builtin_shuffle(value, index);
}

/// Joins all lanes by a fixed tree of `join`, whose order of operands must not matter.
template <class Join>
inline float joined(Floats value, Join join) {
  if constexpr (width >= 16) value = join(value, rotated<8>(value));
  if constexpr (width >= 8) value = join(value, rotated<4 % width>(value));
  value = join(value, rotated<2>(value));
  return join(value, rotated<1>(value))[0];
}

inline float sum_of(Floats value) {
  return joined(value, [](Floats a, Floats b) { return a + b; });
}

inline float largest_of(Floats value) {
  return joined(value, [](Floats a, Floats b) { return larger(a, b); });
}

/// e^x to about 1 unit in the last place for -87.3 <= x <= 88.3; 0 below, e^88.3 above. NaN stays NaN.
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 q(r), q fitted to 3e-9 (minimax by reweighted least
/// squares).
inline Floats exponential(Floats x) {
  const Ints vanishes = x < all(-87.3F);
  x = vanishes ? all(-87.3F) : x;
  x = x > all(88.3F) ? all(88.3F) : x;
  constexpr float round_magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Floats shifted = x * all(1.44269504F) + round_magic;
  const Floats n = shifted - round_magic;
  Floats r = x - n * all(0.693359375F);  // ln 2 in two parts, the first exact in few bits
  r = r - n * all(-2.12194440e-4F);
  Floats q = all(0.001381453825160861F);
  q = q * r + 0.00836874544620514F;
  q = q * r + 0.04166838899254799F;
  q = q * r + 0.1666652113199234F;
  q = q * r + 0.4999999403953552F;
  const Floats e = (q * r) * r + r + 1.0F;
  const Ints exponent = ((Ints)shifted - (Ints)all(round_magic) + 127) << 23;
  return vanishes ? Floats{} : e * (Floats)exponent;
}

}  // namespace
}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
