// SPDX-License-Identifier: Apache-2.0
// Loops over mask words and packed values (kernels.hpp). Compiled once per kernel set.
#include "kernels.hpp"
#include "lanes.hpp"
#include <cstdint>

namespace fedspallm::wire::FEDSPALLM_ISA {

extern const Kernels kKernels;

namespace {

using lanes::count_bits;
using lanes::stored_bits;
using lanes::StoredBf16;
using lanes::StoredF16;
using lanes::StoredF32;

std::int64_t count_set_bits(const std::uint64_t* words, std::int64_t count) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += count_bits(words[i]);
  return total;
}

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

/// A register of elements as the compiler's generic vector.
template <class Element>
struct Lanes {
  static constexpr std::int64_t kCount = kVectorBytes / static_cast<int>(sizeof(Element));
  typedef Element Vector __attribute__((vector_size(kVectorBytes)));
};

template <class Element, Element kMagnitude>
ValueScan scan(const unsigned char* values, std::int64_t count) {
  using Vector = typename Lanes<Element>::Vector;
  constexpr std::int64_t kCount = Lanes<Element>::kCount,
                         kChunk = kCount * 16384;  // a lane's zeros fit an element
  ValueScan result;
  const auto add_lane = [&result](Element largest, Element zeros) {
    result.largest_bits = largest > result.largest_bits ? largest : result.largest_bits;
    result.zeros += zeros;
  };
  const std::int64_t whole = count - count % kCount;
  for (std::int64_t start = 0; start < whole; start += kChunk) {
    const std::int64_t end = start + kChunk < whole ? start + kChunk : whole;
    Vector largest = {}, zeros = {};
    for (std::int64_t i = start; i < end; i += kCount) {
      Vector bits;
      __builtin_memcpy(&bits, values + i * static_cast<std::int64_t>(sizeof(Element)), sizeof bits);
      bits &= kMagnitude;
      largest = bits > largest ? bits : largest;
      zeros -= reinterpret_cast<Vector>(bits == 0);  // true is -1
    }
    for (std::int64_t lane = 0; lane < kCount; ++lane) add_lane(largest[lane], zeros[lane]);
  }
  for (std::int64_t i = whole; i < count; ++i) {
    Element bits;
    __builtin_memcpy(&bits, values + i * static_cast<std::int64_t>(sizeof(Element)), sizeof bits);
    bits = static_cast<Element>(bits & kMagnitude);
    add_lane(bits, bits == 0 ? 1 : 0);
  }
  return result;
}

/// Writes one element of the destination, widened or as stored.
template <class Stored, bool kWiden>
struct Output {
  static constexpr int kBytes = kWiden ? 4 : Stored::kBytes;
  static void put(unsigned char* destination, const unsigned char* source, bool set) {
    if constexpr (kWiden) {
      const float value = set ? lanes::stored_float<Stored>(source) : 0.0F;
      __builtin_memcpy(destination, &value, 4);
    } else {
      const std::uint32_t bits = set ? stored_bits<Stored>(source) : 0;
      __builtin_memcpy(destination, &bits, Stored::kBytes);  // little-endian (update.cpp asserts it)
    }
  }
};

#if defined(__AVX512F__)
template <class Stored, bool kWiden>
inline void put_lanes(unsigned char* destination, const unsigned char* source, unsigned mask) {
  if constexpr (kWiden) {
    _mm512_storeu_ps(destination, lanes::expand_floats<Stored>(source, mask));
  } else if constexpr (Stored::kBytes == 4) {
    _mm512_storeu_si512(destination, lanes::expand_bits<Stored>(source, mask));
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(destination),
                        _mm512_cvtepi32_epi16(lanes::expand_bits<Stored>(source, mask)));
  }
}
#elif defined(__AVX2__)
template <class Stored, bool kWiden>
inline void put_lanes(unsigned char* destination, const unsigned char* source, unsigned mask) {
  const __m256i target = lanes::expand_lanes(mask);
  if constexpr (kWiden) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(destination),
                        lanes::expand_float_bits<Stored>(source, target));
  } else {
    const __m256i bits = lanes::expand_bits<Stored>(source, target);
    if constexpr (Stored::kBytes == 4)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(destination), bits);
    else
      _mm_storeu_si128(reinterpret_cast<__m128i*>(destination),
                       _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1)));
  }
}
#endif

template <class Stored, bool kWiden>
void unpack(const std::uint64_t* words, const unsigned char* values, [[maybe_unused]] std::int64_t kept,
            unsigned char* destination, std::int64_t size) {
  using Out = Output<Stored, kWiden>;
  std::int64_t index = 0, used = 0;
#if defined(__AVX2__)
  // Whole words while a load of any position inside the word stays inside the values.
  for (; index + 64 <= size && used + 64 + lanes::kLanes <= kept; index += 64) {
    const std::uint64_t word = words[index / 64];
    for (int shift = 0; shift < 64; shift += lanes::kLanes) {
      const auto mask = static_cast<unsigned>(word >> shift) & ((1U << lanes::kLanes) - 1U);
      put_lanes<Stored, kWiden>(destination + (index + shift) * Out::kBytes, values + used * Stored::kBytes,
                                mask);
      used += count_bits(mask);
    }
  }
#endif
  for (; index < size; ++index) {
    const bool set = ((words[index / 64] >> (index % 64)) & 1U) != 0;
    Out::put(destination + index * Out::kBytes, values + used * Stored::kBytes, set);
    used += set ? 1 : 0;
  }
}

}  // namespace

const Kernels kKernels = {
    &count_set_bits,
    {&scan<std::uint32_t, 0x7fffffffU>, &scan<std::uint16_t, 0x7fffU>, &scan<std::uint16_t, 0x7fffU>},
    {&unpack<StoredF32, false>, &unpack<StoredBf16, false>,
     &unpack<StoredBf16, false>},  // any 16-bit pattern
    {&unpack<StoredF32, true>, &unpack<StoredF16, true>, &unpack<StoredBf16, true>},
};

}  // namespace fedspallm::wire::FEDSPALLM_ISA
