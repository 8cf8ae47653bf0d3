// SPDX-License-Identifier: Apache-2.0
// Purpose: the vector primitives with which kernels read packed values: load as many stored elements as a
// register has lanes, move them to the lanes whose mask bit is set, widen to float. For inclusion by
// *.isa.cpp only; everything here is local to the including file, so that no kernel set's code is shared with
// another one. No std headers: see there. Non-goals: tails. A load reads a whole register's worth of
// elements, the caller sees to it that they exist.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the undefined vectors inside its own intrinsics for uninitialized variables (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace fedspallm::wire::lanes {
namespace {

/// How an element is stored. Tags, one per DType.
struct StoredF32 {
  static constexpr int kBytes = 4;
};
struct StoredF16 {
  static constexpr int kBytes = 2;
};
struct StoredBf16 {
  static constexpr int kBytes = 2;
};

/// The stored bits of one element, zero-extended.
template <class Stored>
inline std::uint32_t stored_bits(const unsigned char* source) {
  if constexpr (Stored::kBytes == 4) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, source, 4);
    return bits;
  } else {
    std::uint16_t bits;
    __builtin_memcpy(&bits, source, 2);
    return bits;
  }
}

template <class Stored>
struct Widen;
template <>
struct Widen<StoredF32> {
  static float from_bits(std::uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
  }
};
template <>
struct Widen<StoredBf16> {
  static float from_bits(std::uint32_t bits) { return Widen<StoredF32>::from_bits(bits << 16); }
};
template <>
struct Widen<StoredF16> {
  static float from_bits(std::uint32_t bits) {
    const auto narrow = static_cast<std::uint16_t>(bits);
    _Float16 value;
    __builtin_memcpy(&value, &narrow, 2);
    return static_cast<float>(value);
  }
};

template <class Stored>
inline float stored_float(const unsigned char* source) {
  return Widen<Stored>::from_bits(stored_bits<Stored>(source));
}

inline int count_bits(std::uint64_t word) {
  return __builtin_popcountll(word);
}

/// Largest of the lanes of an integer vector, each seen as unsigned. (GCC 12 warns in its own reduce
/// intrinsics.)
template <class Vector>
inline std::uint32_t largest_lane(Vector vector) {
  std::uint32_t lane[sizeof(Vector) / 4];
  __builtin_memcpy(lane, &vector, sizeof(Vector));
  std::uint32_t largest = 0;
  for (const std::uint32_t value : lane) largest = value > largest ? value : largest;
  return largest;
}

#if defined(__AVX2__)
/// 8 stored 16-bit elements as floats.
template <class Stored>
inline __m256 widen8(const unsigned char* source);
template <>
inline __m256 widen8<StoredBf16>(const unsigned char* source) {
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(packed), 16));
}
template <>
inline __m256 widen8<StoredF16>(const unsigned char* source) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}
#endif

#if defined(__AVX512F__)

constexpr int kLanes = 16;

/// 16 elements from `source` in order, moved to the set bits of `mask`; zero elsewhere.
template <class Stored>
inline __m512i expand_bits(const unsigned char* source, unsigned mask) {
  __m512i packed;
  if constexpr (Stored::kBytes == 4)
    packed = _mm512_loadu_si512(source);
  else
    packed = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
  return _mm512_maskz_expand_epi32(static_cast<__mmask16>(mask), packed);
}

template <class Stored>
inline __m512 expand_floats(const unsigned char* source, unsigned mask);
template <>
inline __m512 expand_floats<StoredF32>(const unsigned char* source, unsigned mask) {
  return _mm512_castsi512_ps(expand_bits<StoredF32>(source, mask));
}
template <>
inline __m512 expand_floats<StoredBf16>(const unsigned char* source, unsigned mask) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(expand_bits<StoredBf16>(source, mask), 16));
}
template <>
inline __m512 expand_floats<StoredF16>(const unsigned char* source, unsigned mask) {
  const __m512 packed = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
  return _mm512_maskz_expand_ps(static_cast<__mmask16>(mask), packed);
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;

/// For each 8-bit mask the source lane of each destination lane, 0x80 where nothing goes.
struct ExpandTable {
  std::uint64_t entry[256];
};
constexpr ExpandTable make_expand_table() {
  ExpandTable table{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    std::uint64_t next = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      const bool set = ((mask >> lane) & 1U) != 0;
      table.entry[mask] |= (set ? next : 0x80U) << (8 * lane);
      next += set ? 1 : 0;
    }
  }
  return table;
}
constexpr ExpandTable kExpandTable = make_expand_table();

/// Source lanes for `mask` as 32-bit integers; negative where nothing goes.
inline __m256i expand_lanes(unsigned mask) {
  return _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(static_cast<long long>(kExpandTable.entry[mask])));
}

/// 8 elements from `source` in order, moved by `lanes` (expand_lanes); zero elsewhere.
template <class Stored>
inline __m256i expand_bits(const unsigned char* source, __m256i lanes) {
  __m256i packed;
  if constexpr (Stored::kBytes == 4)
    packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  else
    packed = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
  return _mm256_andnot_si256(_mm256_srai_epi32(lanes, 31), _mm256_permutevar8x32_epi32(packed, lanes));
}

template <class Stored>
inline __m256i expand_float_bits(const unsigned char* source, __m256i lanes) {
  return expand_bits<Stored>(source, lanes);
}
template <>
inline __m256i expand_float_bits<StoredBf16>(const unsigned char* source, __m256i lanes) {
  return _mm256_slli_epi32(expand_bits<StoredBf16>(source, lanes), 16);
}
template <>
inline __m256i expand_float_bits<StoredF16>(const unsigned char* source, __m256i lanes) {
  const __m256 packed = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
  return _mm256_andnot_si256(_mm256_srai_epi32(lanes, 31),
                             _mm256_permutevar8x32_epi32(_mm256_castps_si256(packed), lanes));
}

#endif

}  // namespace
}  // namespace fedspallm::wire::lanes
