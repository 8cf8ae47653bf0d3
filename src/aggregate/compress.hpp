// SPDX-License-Identifier: Apache-2.0
// Purpose: from dense elements and mask words to packed elements, in place: a register's worth is read before
// it is written at or before where it came from, so nothing unread is overwritten. For inclusion by
// tiles.isa.cpp only.
#pragma once

#include "../wire/lanes.hpp"
#include "kernels.hpp"

namespace fedspallm::aggregate {
namespace {

using wire::lanes::count_bits;

#if defined(__AVX512F__)

/// Elements of one tile to `packed`. @pre packed <= elements
template <int kBytes>
inline int compress_tile(std::uint64_t word, const unsigned char* elements, unsigned char* packed) {
  int used = 0;
  for (int lane = 0; lane < 64; lane += 16) {
    const auto mask = static_cast<__mmask16>(word >> lane);
    if constexpr (kBytes == 4) {
      const __m512i chosen = _mm512_maskz_compress_epi32(mask, _mm512_loadu_si512(elements + lane * 4));
      _mm512_storeu_si512(packed + used * 4, chosen);
    } else {
      const __m256i dense = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements + lane * 2));
      const __m512i chosen = _mm512_maskz_compress_epi32(mask, _mm512_cvtepu16_epi32(dense));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed + used * 2), _mm512_cvtepi32_epi16(chosen));
    }
    used += count_bits(mask);
  }
  return used;
}
#elif defined(__AVX2__)

/// For each 8-bit mask the set lanes in ascending order.
struct CompressTable {
  std::uint64_t entry[256];
};
constexpr CompressTable make_compress_table() {
  CompressTable table{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    unsigned next = 0;
    for (std::uint64_t lane = 0; lane < 8; ++lane)
      if (((mask >> lane) & 1U) != 0) table.entry[mask] |= lane << (8 * next++);
  }
  return table;
}
constexpr CompressTable kCompressTable = make_compress_table();

template <int kBytes>
inline int compress_tile(std::uint64_t word, const unsigned char* elements, unsigned char* packed) {
  int used = 0;
  for (int lane = 0; lane < 64; lane += 8) {
    const auto mask = static_cast<unsigned>(word >> lane) & 0xffU;
    const __m256i order =
        _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(kCompressTable.entry[mask])));
    if constexpr (kBytes == 4) {
      const __m256i dense = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements + lane * 4));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed + used * 4),
                          _mm256_permutevar8x32_epi32(dense, order));
    } else {
      const __m128i dense = _mm_loadu_si128(reinterpret_cast<const __m128i*>(elements + lane * 2));
      const __m256i chosen = _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(dense), order);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(packed + used * 2),
                       _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1)));
    }
    used += count_bits(mask);
  }
  return used;
}
#else

/// Without branches: each element is written, and the next one overwrites it unless it was chosen.
template <int kBytes>
inline int compress_tile(std::uint64_t word, const unsigned char* elements, unsigned char* packed) {
  int used = 0;
  for (int lane = 0; lane < 64; ++lane) {
    __builtin_memmove(packed + used * kBytes, elements + lane * kBytes, kBytes);
    used += static_cast<int>((word >> lane) & 1U);
  }
  return used;
}
#endif

template <int kBytes>
std::int64_t compress(const std::uint64_t* words, std::int64_t tiles, unsigned char* elements) {
  std::int64_t used = 0;
  for (std::int64_t tile = 0; tile < tiles; ++tile)
    used += compress_tile<kBytes>(words[tile], elements + tile * 64 * kBytes, elements + used * kBytes);
  return used;
}

}  // namespace
}  // namespace fedspallm::aggregate
