// SPDX-License-Identifier: Apache-2.0
// Purpose: adding the packed values of one tile, written for each kernel set. For inclusion by tiles.isa.cpp
// only.
#pragma once

#include "../base/merge_elements.hpp"
#include "../wire/lanes.hpp"
#include "kernels.hpp"
#include "prefetch.hpp"

namespace fedspallm::aggregate {
namespace {

using wire::lanes::count_bits;

#if defined(__AVX512F__)

/// 16 lanes at a time. value * 2^-q is exact in double (24 bits, exponents far from its ends); adding 1/2 of
/// the same sign and cutting is rounding half away from zero: the sum is exact where |value| has a fraction,
/// and where it is so small that the sum is rounded, it stays below 1.
template <class Stored>
class TileAdder {
 public:
  static constexpr int kReads =
      64 + wire::lanes::kLanes;  // elements from a tile's first value that may be read
  explicit TileAdder(int q)
      : factor_(_mm512_castsi512_pd(_mm512_set1_epi64(static_cast<long long>(1023 - q) << 52))),
        half_(_mm512_set1_pd(0.5)),
        largest_(_mm512_setzero_si512()) {}

  /// Returns the number of values used.
  inline int add(std::uint64_t word, const unsigned char* values, Tile& tile) {
    int used = 0;
    for (int lane = 0; lane < 64; lane += 16) {
      const auto mask = static_cast<unsigned>(word >> lane) & 0xffffU;
      const __m512 expanded = wire::lanes::expand_floats<Stored>(values + used * Stored::kBytes, mask);
      largest_ = _mm512_max_epu32(
          largest_, _mm512_and_si512(_mm512_castps_si512(expanded), _mm512_set1_epi32(0x7fffffff)));
      add8(_mm512_castps512_ps256(expanded), tile.sum + lane);
      add8(_mm512_extractf32x8_ps(expanded, 1), tile.sum + lane + 8);
      const __m512i kept = _mm512_loadu_si512(tile.kept + lane);
      _mm512_storeu_si512(tile.kept + lane, _mm512_mask_add_epi32(kept, static_cast<__mmask16>(mask), kept,
                                                                  _mm512_set1_epi32(1)));
      used += count_bits(mask);
    }
    return used;
  }

  [[nodiscard]] std::uint32_t largest_bits() const { return wire::lanes::largest_lane(largest_); }

 private:
  inline void add8(__m256 values, std::int64_t* sums) {
    const __m512d scaled = _mm512_mul_pd(_mm512_cvtps_pd(values), factor_);
    const __m512d rounding = _mm512_or_pd(half_, _mm512_and_pd(scaled, _mm512_set1_pd(-0.0)));
    const __m512i integers = _mm512_cvttpd_epi64(_mm512_add_pd(scaled, rounding));
    _mm512_storeu_si512(sums, _mm512_add_epi64(_mm512_loadu_si512(sums), integers));
  }

  __m512d factor_, half_;
  __m512i largest_;
};

#elif defined(__AVX2__)

/// 8 lanes at a time, quantize_bits() on vectors: shifts by 64 or more give 0, so both directions are
/// computed and joined.
template <class Stored>
class TileAdder {
 public:
  static constexpr int kReads = 64 + wire::lanes::kLanes;
  explicit TileAdder(int q) : offset_(_mm256_set1_epi32(-150 - q)), largest_(_mm256_setzero_si256()) {}

  inline int add(std::uint64_t word, const unsigned char* values, Tile& tile) {
    int used = 0;
    for (int lane = 0; lane < 64; lane += 8) {
      const auto mask = static_cast<unsigned>(word >> lane) & 0xffU;
      const __m256i target = wire::lanes::expand_lanes(mask);
      add8(wire::lanes::expand_float_bits<Stored>(values + used * Stored::kBytes, target), tile.sum + lane);
      auto* kept = reinterpret_cast<__m256i*>(tile.kept + lane);
      const __m256i dropped = _mm256_srai_epi32(target, 31);  // -1 where dropped: kept + 1 + dropped
      _mm256_storeu_si256(
          kept, _mm256_add_epi32(_mm256_add_epi32(_mm256_loadu_si256(kept), _mm256_set1_epi32(1)), dropped));
      used += count_bits(mask);
    }
    return used;
  }

  [[nodiscard]] std::uint32_t largest_bits() const { return wire::lanes::largest_lane(largest_); }

 private:
  inline void add8(__m256i bits, std::int64_t* sums) {
    const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    largest_ = _mm256_max_epu32(largest_, magnitude);
    const __m256i exponent = _mm256_srli_epi32(magnitude, 23);
    const __m256i subnormal = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
    const __m256i mantissa = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff)),
                                             _mm256_andnot_si256(subnormal, _mm256_set1_epi32(0x800000)));
    const __m256i shift = _mm256_add_epi32(_mm256_sub_epi32(exponent, subnormal), offset_);
    const __m256i sign = _mm256_srai_epi32(bits, 31);
    add4(_mm256_castsi256_si128(mantissa), _mm256_castsi256_si128(shift), _mm256_castsi256_si128(sign), sums);
    add4(_mm256_extracti128_si256(mantissa, 1), _mm256_extracti128_si256(shift, 1),
         _mm256_extracti128_si256(sign, 1), sums + 4);
  }

  static inline void add4(__m128i mantissa4, __m128i shift4, __m128i sign4, std::int64_t* sums) {
    const __m256i mantissa = _mm256_cvtepu32_epi64(mantissa4);
    const __m256i left = _mm256_cvtepi32_epi64(shift4);
    const __m256i sign = _mm256_cvtepi32_epi64(sign4);
    const __m256i one = _mm256_set1_epi64x(1);
    const __m256i right = _mm256_sub_epi64(_mm256_setzero_si256(), left);
    const __m256i half = _mm256_sllv_epi64(one, _mm256_sub_epi64(right, one));
    const __m256i shifted = _mm256_or_si256(_mm256_sllv_epi64(mantissa, left),
                                            _mm256_srlv_epi64(_mm256_add_epi64(mantissa, half), right));
    const __m256i integers = _mm256_sub_epi64(_mm256_xor_si256(shifted, sign), sign);
    auto* destination = reinterpret_cast<__m256i*>(sums);
    _mm256_storeu_si256(destination, _mm256_add_epi64(_mm256_loadu_si256(destination), integers));
  }

  __m256i offset_, largest_;
};

#else

/// One set bit after the other.
template <class Stored>
class TileAdder {
 public:
  static constexpr int kReads = 64;
  explicit TileAdder(int q) : q_(q) {}

  inline int add(std::uint64_t word, const unsigned char* values, Tile& tile) {
    int used = 0;
    for (; word != 0; word &= word - 1) {
      const int lane = __builtin_ctzll(word);
      const float value = wire::lanes::stored_float<Stored>(values + used * Stored::kBytes);
      std::uint32_t bits;
      __builtin_memcpy(&bits, &value, 4);
      tile.sum[lane] += quantize_bits(bits, q_);
      ++tile.kept[lane];
      ++used;
      largest_ = (bits & 0x7fffffffU) > largest_ ? bits & 0x7fffffffU : largest_;
    }
    return used;
  }

  [[nodiscard]] std::uint32_t largest_bits() const { return largest_; }

 private:
  int q_;
  std::uint32_t largest_ = 0;
};

#endif

/// Tiles whose values may be over-read directly, the last ones through a copy with room behind it.
template <class Stored>
Added add_packed(const std::uint64_t* words, std::int64_t tiles, const unsigned char* values,
                 std::int64_t available, int q, Tile* destination) {
  TileAdder<Stored> adder(q);
  constexpr int kReads = TileAdder<Stored>::kReads;
  std::int64_t used = 0, tile = 0;
  for (; tile < tiles && used + kReads <= available; ++tile) {
    prefetch_tile(destination + tile, kTilesAhead);
    used += adder.add(words[tile], values + used * Stored::kBytes, destination[tile]);
  }
  for (; tile < tiles; ++tile) {
    unsigned char copy[kReads * Stored::kBytes] = {};
    const int count = count_bits(words[tile]);
    if (count > 0)  // else there may be no values at all, not even a pointer
      __builtin_memcpy(copy, values + used * Stored::kBytes,
                       static_cast<std::uint64_t>(count) * Stored::kBytes);
    used += adder.add(words[tile], copy, destination[tile]);
  }
  return {used, adder.largest_bits()};
}

}  // namespace
}  // namespace fedspallm::aggregate
