// SPDX-License-Identifier: Apache-2.0
// Purpose: the keys by which tied weights go, as patterns of non-negative doubles: these grow with their
// values. Squares of elements are exact in double, so that a key has one rounding, the same in all kernel
// sets. For inclusion by tiles.isa.cpp only.
#pragma once

#include "../base/merge_elements.hpp"
#include "../wire/lanes.hpp"
#include "kernels.hpp"

namespace fedspallm::aggregate {
namespace {

#if defined(__AVX512F__)
/// 8 elements as doubles.
template <class Stored>
inline __m512d load_doubles(const unsigned char* elements) {
  if constexpr (Stored::kBytes == 4) {
    return _mm512_cvtps_pd(_mm256_loadu_ps(reinterpret_cast<const float*>(elements)));
  } else {
    return _mm512_cvtps_pd(wire::lanes::widen8<Stored>(elements));
  }
}
#elif defined(__AVX2__)
/// 8 elements as floats.
template <class Stored>
inline __m256 load_floats(const unsigned char* elements) {
  if constexpr (Stored::kBytes == 4) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(elements));
  } else {
    return wire::lanes::widen8<Stored>(elements);
  }
}
#endif

template <class Stored>
void score_keys(const unsigned char* elements, const double* column_weights, std::uint64_t* keys) {
#if defined(__AVX512F__)
  for (int lane = 0; lane < 64; lane += 8) {
    const __m512d value = load_doubles<Stored>(elements + lane * Stored::kBytes);
    const __m512d square = _mm512_mul_pd(value, value);
    _mm512_storeu_pd(keys + lane, _mm512_mul_pd(square, _mm512_loadu_pd(column_weights + lane)));
  }
#elif defined(__AVX2__)
  for (int lane = 0; lane < 64; lane += 8) {
    const __m256 value = load_floats<Stored>(elements + lane * Stored::kBytes);
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(value));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(value, 1));
    const __m256d low_key = _mm256_mul_pd(_mm256_mul_pd(low, low), _mm256_loadu_pd(column_weights + lane));
    const __m256d high_key =
        _mm256_mul_pd(_mm256_mul_pd(high, high), _mm256_loadu_pd(column_weights + lane + 4));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys + lane), _mm256_castpd_si256(low_key));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys + lane + 4), _mm256_castpd_si256(high_key));
  }
#else
  for (int lane = 0; lane < 64; ++lane)
    keys[lane] =
        score_key(wire::lanes::stored_float<Stored>(elements + lane * Stored::kBytes), column_weights[lane]);
#endif
}

template <class Stored>
void magnitude_keys(const unsigned char* elements, std::uint64_t* keys) {
  for (int lane = 0; lane < 64; ++lane)
    keys[lane] = magnitude_key(wire::lanes::stored_float<Stored>(elements + lane * Stored::kBytes));
}

/// Patterns of non-negative doubles have no sign bit, so signed comparisons will do.
KeyMasks compare_keys(const std::uint64_t* keys, std::uint64_t low, std::uint64_t high) {
  std::uint64_t below = 0, above = 0;
#if defined(__AVX512F__)
  const __m512i lowest = _mm512_set1_epi64(static_cast<long long>(low));
  const __m512i highest = _mm512_set1_epi64(static_cast<long long>(high));
  for (int lane = 0; lane < 64; lane += 8) {
    const __m512i key = _mm512_loadu_si512(keys + lane);
    below |= static_cast<std::uint64_t>(_mm512_cmplt_epi64_mask(key, lowest)) << lane;
    above |= static_cast<std::uint64_t>(_mm512_cmpgt_epi64_mask(key, highest)) << lane;
  }
#elif defined(__AVX2__)
  const __m256i lowest = _mm256_set1_epi64x(static_cast<long long>(low));
  const __m256i highest = _mm256_set1_epi64x(static_cast<long long>(high));
  const auto bits = [](__m256i mask) {
    return static_cast<std::uint64_t>(static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(mask))));
  };
  for (int lane = 0; lane < 64; lane += 4) {
    const __m256i key = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + lane));
    below |= bits(_mm256_cmpgt_epi64(lowest, key)) << lane;
    above |= bits(_mm256_cmpgt_epi64(key, highest)) << lane;
  }
#else
  for (int lane = 0; lane < 64; ++lane) {
    below |= static_cast<std::uint64_t>(keys[lane] < low ? 1 : 0) << lane;
    above |= static_cast<std::uint64_t>(keys[lane] > high ? 1 : 0) << lane;
  }
#endif
  return {below, ~(below | above)};
}

}  // namespace
}  // namespace fedspallm::aggregate
