// SPDX-License-Identifier: Apache-2.0
// Purpose: what one word of an operand is in a kernel set, and how a word of each side adds to a sum. The set
// avx512bf16 compiles the same products as the others with two bf16 numbers in a word. Non-goals: f16, AMX.
#pragma once

#include "simd.hpp"

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

#if defined(__AVX512BF16__)

constexpr std::int64_t per_word = 2;

/// The word in all lanes, whatever its bits would be as a float.
inline Floats word_in_all(const float* word) {
  std::int32_t bits;
  __builtin_memcpy(&bits, word, sizeof bits);
  return (Floats)_mm512_set1_epi32(bits);
}

inline Floats multiply_add(Floats left, Floats right, Floats sum) {
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
}

/// 16 floats as bf16, ties to even, in the lower halves of 16 words.
inline __m512i narrowed(Floats value) {
  return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)value));
}

inline Floats load_at_most(const float* source, std::int64_t count) {
  return count >= width ? load(source) : load_part(source, count, 0.0F);
}

inline void store_words(float* words, Floats value) {
  const auto pairs = (__m256i)_mm512_cvtneps_pbh((__m512)value);
  __builtin_memcpy(words, &pairs, sizeof pairs);
}

/// Words of floats that are neighbours in memory.
inline void to_words(const float* x, std::int64_t n, float* words) {
  for (std::int64_t i = 0; i < n; i += width) {
    const auto pairs = (__m256i)_mm512_cvtneps_pbh((__m512)load_at_most(x + i, n - i));
    const std::int64_t left = n - i < width ? (n - i + 1) / 2 : width / 2;
    _mm256_mask_storeu_epi32(words + i / 2, static_cast<__mmask8>((1U << left) - 1U), pairs);
  }
}

/// Words of two rows, `lower` first in depth.
inline Floats paired(Floats lower, Floats upper) {
  return (Floats)_mm512_or_si512(narrowed(lower), _mm512_slli_epi32(narrowed(upper), 16));
}

#else

constexpr std::int64_t per_word = 1;

inline Floats word_in_all(const float* word) {
  return all(*word);
}

inline Floats multiply_add(Floats left, Floats right, Floats sum) {
  return sum + left * right;  // contracted into one rounding (cmake/FedspallmTargets.cmake)
}

#endif

constexpr std::int64_t words_of(std::int64_t n) {
  return (n + per_word - 1) / per_word;
}

/// Word `word` of the columns of `rows` rows: a row's floats, or two rows' together. Lanes beyond `columns`
/// are 0.
inline Floats words_at(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t word,
                       std::int64_t columns) {
#if defined(__AVX512BF16__)
  const float* lower = x + word * per_word * stride;
  const bool paired_up = word * per_word + 1 < rows;
  return paired(load_at_most(lower, columns), paired_up ? load_at_most(lower + stride, columns) : Floats{});
#else
  static_cast<void>(rows);
  const float* from = x + word * stride;
  return columns >= width ? load(from) : load_part(from, columns, 0.0F);
#endif
}

}  // namespace
}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
