// SPDX-License-Identifier: Apache-2.0
// Purpose: rounding sums and quotients to elements of a model's dtype, once. For inclusion by average.hpp
// only. Why the elements are the exact means rounded once: base/merge_elements.hpp.
#pragma once

#include "../base/merge_elements.hpp"
#include "../wire/lanes.hpp"
#include "kernels.hpp"

namespace fedspallm::aggregate {
namespace {

using wire::lanes::StoredBf16;
using wire::lanes::StoredF16;
using wire::lanes::StoredF32;

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
    const std::uint16_t element = odd_to_bf16(float_to_odd(value));
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
