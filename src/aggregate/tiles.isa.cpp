// SPDX-License-Identifier: Apache-2.0
// The loops over tiles (kernels.hpp). Compiled once per kernel set.
#include "accumulate.hpp"
#include "average.hpp"
#include "compress.hpp"
#include "kernels.hpp"
#include "keys.hpp"

namespace fedspallm::aggregate::FEDSPALLM_ISA {

extern const Kernels kKernels;

namespace {

void add_tiles(const Tile* from, Tile* into, std::int64_t tiles) {
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    for (int lane = 0; lane < kTile; ++lane) into[tile].sum[lane] += from[tile].sum[lane];
    for (int lane = 0; lane < kTile; ++lane) into[tile].kept[lane] += from[tile].kept[lane];
  }
}

/// Counts of a few clients: the 64 counts of a tile as bytes (larger ones saturate and match nothing),
/// compared with each possible count. Cheaper than a table of bins that successive weights fight for.
constexpr std::uint32_t kFewClients = 15;

#if defined(__AVX512F__)
inline void count_tile(const std::uint32_t* kept, std::uint32_t clients, std::uint32_t* bins) {
  __m512i bytes = _mm512_castsi128_si512(_mm512_cvtusepi32_epi8(_mm512_loadu_si512(kept)));
  bytes = _mm512_inserti32x4(bytes, _mm512_cvtusepi32_epi8(_mm512_loadu_si512(kept + 16)), 1);
  bytes = _mm512_inserti32x4(bytes, _mm512_cvtusepi32_epi8(_mm512_loadu_si512(kept + 32)), 2);
  bytes = _mm512_inserti32x4(bytes, _mm512_cvtusepi32_epi8(_mm512_loadu_si512(kept + 48)), 3);
  for (std::uint32_t count = 0; count <= clients; ++count) {
    const __mmask64 equal = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(static_cast<char>(count)));
    bins[count] += static_cast<std::uint32_t>(count_bits(equal));
  }
}
#elif defined(__AVX2__)
inline __m256i bytes_of_32(const std::uint32_t* kept) {  // order does not matter
  const auto load = [kept](int at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kept + at));
  };
  const __m256i limit = _mm256_set1_epi32(255);  // packing saturates signed numbers only
  const auto few = [limit](__m256i counts) { return _mm256_min_epu32(counts, limit); };
  return _mm256_packus_epi16(_mm256_packus_epi32(few(load(0)), few(load(8))),
                             _mm256_packus_epi32(few(load(16)), few(load(24))));
}
inline void count_tile(const std::uint32_t* kept, std::uint32_t clients, std::uint32_t* bins) {
  const __m256i low = bytes_of_32(kept), high = bytes_of_32(kept + 32);
  for (std::uint32_t count = 0; count <= clients; ++count) {
    const __m256i wanted = _mm256_set1_epi8(static_cast<char>(count));
    const auto low_bits = static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, wanted)));
    const auto high_bits = static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, wanted)));
    bins[count] += static_cast<std::uint32_t>(count_bits(low_bits | std::uint64_t{high_bits} << 32));
  }
}
#else
inline void count_tile(const std::uint32_t* kept, std::uint32_t clients, std::uint32_t* bins) {
  for (int lane = 0; lane < kTile; ++lane) bins[kept[lane] <= clients ? kept[lane] : kFewClients + 1] += 1;
}
#endif

void count_kept(const Tile* source, std::int64_t tiles, std::uint32_t clients, std::int64_t* histogram) {
  if (clients > kFewClients) {
    for (std::int64_t tile = 0; tile < tiles; ++tile)
      for (const std::uint32_t kept : source[tile].kept)
        if (kept <= clients) ++histogram[kept];
    return;
  }
  constexpr std::int64_t kPanel = std::int64_t{1} << 24;  // tiles whose counts fit 32 bits
  for (std::int64_t first = 0; first < tiles; first += kPanel) {
    const std::int64_t last = first + kPanel < tiles ? first + kPanel : tiles;
    std::uint32_t bins[kFewClients + 2] = {};
    for (std::int64_t tile = first; tile < last; ++tile) count_tile(source[tile].kept, clients, bins);
    for (std::uint32_t count = 0; count <= clients; ++count) histogram[count] += bins[count];
  }
}

}  // namespace

const Kernels kKernels = {
    {&add_packed<StoredF32>, &add_packed<StoredF16>, &add_packed<StoredBf16>},
    &add_tiles,
    &count_kept,
    {&average<StoredF32>, &average<StoredF16>, &average<StoredBf16>},
    {&score_keys<StoredF32>, &score_keys<StoredF16>, &score_keys<StoredBf16>},
    {&magnitude_keys<StoredF32>, &magnitude_keys<StoredF16>, &magnitude_keys<StoredBf16>},
    &compare_keys,
    &compress<2>,
    &compress<4>,
};

}  // namespace fedspallm::aggregate::FEDSPALLM_ISA
