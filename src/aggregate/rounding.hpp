// SPDX-License-Identifier: Apache-2.0
// Purpose: rounding sums and quotients to elements of a model's dtype, once. For inclusion by average.hpp
// only.
//
// Why the result is the nearest element to the exact sum 2^q / n:
//  1. |sum| <= 2^56 is cut to 53 bits by rounding to odd (only where it has more). The cut number lies on the
//  same side
//     of n * midpoint for each midpoint between elements, because with n < 2^24 those are multiples of 2^4
//     there.
//  2. The double division then rounds correctly, and a quotient of a 53-bit integer by n < 2^24 that is not a
//  midpoint
//     is further than half a unit of double precision away from one. So the double lies on the right side,
//     too.
//  3. Times 2^q is exact in double. Double to f32 is one rounding; to f16 and bf16 it goes over a float that
//  is rounded
//     to odd, which has enough bits to make the second rounding the correct one.
#pragma once

#include "../wire/lanes.hpp"
#include "kernels.hpp"

namespace fedspallm::aggregate {
namespace {

using wire::lanes::StoredBf16;
using wire::lanes::StoredF16;
using wire::lanes::StoredF32;

constexpr std::int64_t kExact = std::int64_t{1} << 53;

inline double power_of_two(int exponent) {
  const std::uint64_t bits = static_cast<std::uint64_t>(1023 + exponent) << 52;
  double value;
  __builtin_memcpy(&value, &bits, 8);
  return value;
}

/// Step 1: a multiple of 8 where the sum has more than 53 bits. Two's complement: works for both signs.
inline std::int64_t cut_to_odd(std::int64_t sum) {
  if (sum > -kExact && sum < kExact) return sum;
  return (sum & ~std::int64_t{7}) | ((sum & 7) != 0 ? 8 : 0);
}

inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

/// Pattern of the float next to `value` towards zero, with its last bit set unless it equals `value`.
inline std::uint32_t float_to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  const auto back = static_cast<double>(nearest);
  std::uint32_t bits = bits_of(nearest);
  if (__builtin_fabs(back) > __builtin_fabs(value)) --bits;
  return back != value ? bits | 1U : bits;
}

/// Step 3 for one element, and for as many as a vector of doubles has.
template <class Stored>
struct Element;

#if defined(__AVX512F__)
inline __m512i floats_to_odd(__m512d values) {
  const __m256 cut = _mm512_cvt_roundpd_ps(values, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
  const __mmask8 inexact = _mm512_cmp_pd_mask(_mm512_cvtps_pd(cut), values, _CMP_NEQ_OQ);
  const __m256i bits = _mm256_castps_si256(cut);
  return _mm512_castsi256_si512(_mm256_mask_or_epi32(bits, inexact, bits, _mm256_set1_epi32(1)));
}
#elif defined(__AVX2__)
inline __m128i floats_to_odd(__m256d values) {
  const __m256d sign = _mm256_set1_pd(-0.0);
  const __m128 nearest = _mm256_cvtpd_ps(values);
  const __m256d back = _mm256_cvtps_pd(nearest);
  const __m256d above =
      _mm256_cmp_pd(_mm256_andnot_pd(sign, back), _mm256_andnot_pd(sign, values), _CMP_GT_OQ);
  const __m256d inexact = _mm256_cmp_pd(back, values, _CMP_NEQ_OQ);
  const __m256i even_lanes = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
  const auto narrow_mask = [even_lanes](__m256d mask) {
    return _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(_mm256_castpd_si256(mask), even_lanes));
  };
  const __m128i cut = _mm_add_epi32(_mm_castps_si128(nearest), narrow_mask(above));
  return _mm_or_si128(cut, _mm_srli_epi32(narrow_mask(inexact), 31));
}
#endif

template <>
struct Element<StoredF32> {
  static constexpr int kBytes = 4;
  static void store(double value, unsigned char* destination) {
    const auto element = static_cast<float>(value);
    __builtin_memcpy(destination, &element, 4);
  }
#if defined(__AVX512F__)
  static void store(__m512d values, unsigned char* destination) {
    _mm256_storeu_ps(reinterpret_cast<float*>(destination), _mm512_cvtpd_ps(values));
  }
#elif defined(__AVX2__)
  static void store(__m256d values, unsigned char* destination) {
    _mm_storeu_ps(reinterpret_cast<float*>(destination), _mm256_cvtpd_ps(values));
  }
#endif
};

template <>
struct Element<StoredBf16> {
  static constexpr int kBytes = 2;
  static void store(double value, unsigned char* destination) {
    const std::uint32_t odd = float_to_odd(value);
    const auto element = static_cast<std::uint16_t>((odd + 0x7fffU + ((odd >> 16) & 1U)) >> 16);
    __builtin_memcpy(destination, &element, 2);
  }
#if defined(__AVX512F__)
  static void store(__m512d values, unsigned char* destination) {
    const __m256i odd = _mm512_castsi512_si256(floats_to_odd(values));
    const __m256i last = _mm256_and_si256(_mm256_srli_epi32(odd, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)), last);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(destination),
                     _mm256_cvtepi32_epi16(_mm256_srli_epi32(rounded, 16)));
  }
#elif defined(__AVX2__)
  static void store(__m256d values, unsigned char* destination) {
    const __m128i odd = floats_to_odd(values);
    const __m128i last = _mm_and_si128(_mm_srli_epi32(odd, 16), _mm_set1_epi32(1));
    const __m128i rounded = _mm_add_epi32(_mm_add_epi32(odd, _mm_set1_epi32(0x7fff)), last);
    const __m128i elements = _mm_srli_epi32(rounded, 16);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(destination), _mm_packus_epi32(elements, elements));
  }
#endif
};

template <>
struct Element<StoredF16> {
  static constexpr int kBytes = 2;
  static void store(double value, unsigned char* destination) {
    const std::uint32_t odd = float_to_odd(value);
    float narrow;
    __builtin_memcpy(&narrow, &odd, 4);
    const auto element = static_cast<_Float16>(narrow);
    __builtin_memcpy(destination, &element, 2);
  }
#if defined(__AVX512F__)
  static void store(__m512d values, unsigned char* destination) {
    const __m256 odd = _mm256_castsi256_ps(_mm512_castsi512_si256(floats_to_odd(values)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(destination),
                     _mm256_cvtps_ph(odd, _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__AVX2__)
  static void store(__m256d values, unsigned char* destination) {
    const __m128 odd = _mm_castsi128_ps(floats_to_odd(values));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(destination), _mm_cvtps_ph(odd, _MM_FROUND_TO_NEAREST_INT));
  }
#endif
};

}  // namespace
}  // namespace fedspallm::aggregate
