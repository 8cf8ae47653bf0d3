// SPDX-License-Identifier: Apache-2.0
// Purpose: from the sums and counts of a tile to elements, votes and the mask word. For inclusion by
// tiles.isa.cpp only. Why the elements are the exact means rounded once: base/merge_elements.hpp.
#pragma once

#include "prefetch.hpp"
#include "rounding.hpp"

namespace fedspallm::aggregate {
namespace {

/// Bits of a few lanes of a tile.
struct LaneMasks {
  std::uint64_t stay, tied;
};

// Divisors, weight after weight: the clients that kept it (1 where nobody did: 0 / 1), or a fixed number.
#if defined(__AVX512F__)

class LaneAverager {
 public:
  static constexpr int kWidth = 8;
  explicit LaneAverager(AverageRule rule)
      : clients_(_mm256_set1_epi32(static_cast<int>(rule.clients))),
        least_(_mm256_set1_epi32(static_cast<int>(rule.divisor != 0 ? rule.divisor : 1))),
        most_(_mm256_set1_epi32(static_cast<int>(rule.divisor != 0 ? rule.divisor : ~0U))),
        level_(_mm256_set1_epi32(static_cast<int>(rule.level))),
        factor_(_mm512_set1_pd(power_of_two(rule.q))),
        largest_(_mm256_setzero_si256()) {}

  template <class Stored>
  inline LaneMasks run(const std::int64_t* sums, const std::uint32_t* counts, unsigned char* elements,
                       std::uint32_t* votes) {
    const __m256i kept = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(counts));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(votes), _mm256_sub_epi32(clients_, kept));
    largest_ = _mm256_max_epu32(largest_, kept);
    const __m256i divisor = _mm256_min_epu32(_mm256_max_epu32(kept, least_), most_);
    const __m512d sum = _mm512_cvtepi64_pd(cut(_mm512_loadu_si512(sums)));
    const __m512d quotient = _mm512_div_pd(sum, _mm512_cvtepu32_pd(divisor));
    Element<Stored>::store(_mm512_mul_pd(quotient, factor_), elements);
    return {_mm256_cmpgt_epu32_mask(kept, level_), _mm256_cmpeq_epu32_mask(kept, level_)};
  }

  [[nodiscard]] std::uint32_t largest_count() const { return wire::lanes::largest_lane(largest_); }

 private:
  static inline __m512i cut(__m512i sum) {
    const __m512i seven = _mm512_set1_epi64(7);
    const __mmask8 wide = _mm512_cmpge_epi64_mask(_mm512_abs_epi64(sum), _mm512_set1_epi64(kExact));
    const __mmask8 sticky = _mm512_mask_test_epi64_mask(wide, sum, seven);
    const __m512i floor = _mm512_mask_andnot_epi64(sum, wide, seven, sum);
    return _mm512_mask_or_epi64(floor, sticky, floor, _mm512_set1_epi64(8));
  }

  __m256i clients_, least_, most_, level_;
  __m512d factor_;
  __m256i largest_;
};

#elif defined(__AVX2__)

class LaneAverager {
 public:
  static constexpr int kWidth = 4;
  explicit LaneAverager(AverageRule rule)
      : clients_(_mm_set1_epi32(static_cast<int>(rule.clients))),
        least_(_mm_set1_epi32(static_cast<int>(rule.divisor != 0 ? rule.divisor : 1))),
        most_(_mm_set1_epi32(static_cast<int>(rule.divisor != 0 ? rule.divisor : ~0U))),
        level_(_mm_set1_epi32(static_cast<int>(rule.level))),
        factor_(_mm256_set1_pd(power_of_two(rule.q))),
        largest_(_mm_setzero_si128()) {}

  template <class Stored>
  inline LaneMasks run(const std::int64_t* sums, const std::uint32_t* counts, unsigned char* elements,
                       std::uint32_t* votes) {
    const __m128i kept = _mm_loadu_si128(reinterpret_cast<const __m128i*>(counts));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(votes), _mm_sub_epi32(clients_, kept));
    largest_ = _mm_max_epu32(largest_, kept);
    const __m128i divisor = _mm_min_epu32(_mm_max_epu32(kept, least_), most_);
    const __m256d sum = to_double(cut(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums))));
    const __m256d quotient =
        _mm256_div_pd(sum, _mm256_cvtepi32_pd(divisor));  // below 2^24: a sign never shows
    Element<Stored>::store(_mm256_mul_pd(quotient, factor_), elements);
    return {bits_of_lanes(_mm_cmpgt_epi32(kept, level_)), bits_of_lanes(_mm_cmpeq_epi32(kept, level_))};
  }

  [[nodiscard]] std::uint32_t largest_count() const { return wire::lanes::largest_lane(largest_); }

 private:
  static inline __m256i cut(__m256i sum) {
    const __m256i above = _mm256_cmpgt_epi64(sum, _mm256_set1_epi64x(kExact - 1));
    const __m256i below = _mm256_cmpgt_epi64(_mm256_set1_epi64x(1 - kExact), sum);
    const __m256i rest =
        _mm256_and_si256(_mm256_or_si256(above, below), _mm256_and_si256(sum, _mm256_set1_epi64x(7)));
    const __m256i none = _mm256_cmpeq_epi64(rest, _mm256_setzero_si256());
    return _mm256_or_si256(_mm256_xor_si256(sum, rest), _mm256_andnot_si256(none, _mm256_set1_epi64x(8)));
  }

  static inline std::uint64_t bits_of_lanes(__m128i mask) {
    return static_cast<unsigned>(_mm_movemask_ps(_mm_castsi128_ps(mask)));
  }

  /// Exact for integers of at most 53 significant bits: high and low halves as doubles, put together.
  static inline __m256d to_double(__m256i integer) {
    const __m256i low_magic = _mm256_set1_epi64x(0x4330000000000000);   // 2^52
    const __m256i high_magic = _mm256_set1_epi64x(0x4530000080000000);  // 2^84 + 2^63
    const __m256d all_magic =
        _mm256_castsi256_pd(_mm256_set1_epi64x(0x4530000080100000));  // 2^84 + 2^63 + 2^52
    const __m256d low = _mm256_castsi256_pd(_mm256_blend_epi32(low_magic, integer, 0x55));
    const __m256d high = _mm256_castsi256_pd(_mm256_xor_si256(_mm256_srli_epi64(integer, 32), high_magic));
    return _mm256_add_pd(_mm256_sub_pd(high, all_magic), low);
  }

  __m128i clients_, least_, most_, level_;
  __m256d factor_;
  __m128i largest_;
};

#else

class LaneAverager {
 public:
  static constexpr int kWidth = 1;
  explicit LaneAverager(AverageRule rule) : rule_(rule), factor_(power_of_two(rule.q)) {}

  template <class Stored>
  inline LaneMasks run(const std::int64_t* sums, const std::uint32_t* counts, unsigned char* elements,
                       std::uint32_t* votes) {
    const std::uint32_t kept = *counts;
    *votes = rule_.clients - kept;
    largest_ = kept > largest_ ? kept : largest_;
    const std::uint32_t divisor = rule_.divisor != 0 ? rule_.divisor : (kept != 0 ? kept : 1);
    Element<Stored>::store(mean_of(*sums, divisor, factor_), elements);
    return {kept > rule_.level ? 1U : 0U, kept == rule_.level ? 1U : 0U};
  }

  [[nodiscard]] std::uint32_t largest_count() const { return largest_; }

 private:
  AverageRule rule_;
  double factor_;
  std::uint32_t largest_ = 0;
};

#endif

template <class Stored>
std::uint32_t average(const Tile* source, std::int64_t tiles, AverageRule rule, Averages out) {
  constexpr int kWidth = LaneAverager::kWidth;
  LaneAverager averager(rule);
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const Tile& from = source[tile];
    prefetch_tile(&from, kTilesAhead);
    std::uint64_t stay = 0, tied = 0;
    for (int lane = 0; lane < kTile; lane += kWidth) {
      const std::int64_t at = tile * kTile + lane;
      const LaneMasks masks = averager.template run<Stored>(
          from.sum + lane, from.kept + lane, out.elements + at * Element<Stored>::kBytes, out.votes + at);
      stay |= masks.stay << lane;
      tied |= masks.tied << lane;
    }
    out.stay[tile] = stay;
    out.tied[tile] = rule.level != 0 ? tied : 0;
  }
  return averager.largest_count();
}

}  // namespace
}  // namespace fedspallm::aggregate
