// SPDX-License-Identifier: Apache-2.0
// Mask bytes to bits and back, kept values out and in, 16-bit conversions.
#include "kernels.hpp"
#include "simd.hpp"

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

/// One word of up to 64 mask bytes, each 0 or not 0.
inline std::uint64_t word_of(const std::uint8_t* mask, std::int64_t count) {
  std::uint64_t word = 0;
#if defined(__AVX512BW__)
  if (count == 64) {
    const __m512i bytes = _mm512_loadu_si512(mask);
    return _mm512_test_epi8_mask(bytes, bytes);
  }
#elif defined(__AVX2__)
  if (count == 64) {
    for (int half = 0; half < 2; ++half) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask + 32 * half));
      const __m256i zero = _mm256_cmpeq_epi8(bytes, _mm256_setzero_si256());
      word |= static_cast<std::uint64_t>(~static_cast<std::uint32_t>(_mm256_movemask_epi8(zero)))
              << (32 * half);
    }
    return word;
  }
#endif
  for (std::int64_t i = 0; i < count; ++i) word |= static_cast<std::uint64_t>(mask[i] != 0) << i;
  return word;
}

std::int64_t mask_to_bits(const std::uint8_t* mask, std::int64_t n, std::uint64_t* words) {
  std::int64_t ones = 0;
  for (std::int64_t i = 0; i < n; i += 64) {
    const std::uint64_t word = word_of(mask + i, n - i < 64 ? n - i : 64);
    words[i / 64] = word;
    ones += __builtin_popcountll(word);
  }
  return ones;
}

void bits_to_mask(const std::uint64_t* words, std::int64_t n, std::uint8_t* mask) {
  std::int64_t i = 0;
#if defined(__AVX512BW__)
  for (; i + 64 <= n; i += 64)
    _mm512_storeu_si512(mask + i, _mm512_maskz_set1_epi8(static_cast<__mmask64>(words[i / 64]), 1));
#else
  for (; i + 8 <= n; i += 8) {  // eight bits to eight bytes: bit k to byte k
    const std::uint64_t bits = (words[i / 64] >> (i % 64)) & 0xffU;
    std::uint64_t spread = (bits * 0x0101010101010101U) & 0x8040201008040201U;
    spread = ((spread + 0x7f7f7f7f7f7f7f7fU) | spread) >> 7 & 0x0101010101010101U;
    __builtin_memcpy(mask + i, &spread, 8);
  }
#endif
  for (; i < n; ++i) mask[i] = static_cast<std::uint8_t>((words[i / 64] >> (i % 64)) & 1U);
}

/// destination = the elements of `source` at the set bits of n bits. T: float or uint16_t.
template <class T>
inline std::int64_t compress(const T* source, const std::uint64_t* words, std::int64_t n, void* destination) {
  auto* out = static_cast<unsigned char*>(destination);
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < n; i += 64) {
    for (std::uint64_t word = words[i / 64]; word != 0; word &= word - 1) {
      __builtin_memcpy(out + used * static_cast<std::int64_t>(sizeof(T)), source + i + __builtin_ctzll(word),
                       sizeof(T));
      ++used;
    }
  }
  return used;
}

template <class T>
inline std::int64_t expand(const void* values, const std::uint64_t* words, std::int64_t n, T* destination) {
  const auto* in = static_cast<const unsigned char*>(values);
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < n; i += 64) {
    const std::int64_t count = n - i < 64 ? n - i : 64;
    for (std::int64_t k = 0; k < count; ++k) destination[i + k] = T{};
    for (std::uint64_t word = words[i / 64]; word != 0; word &= word - 1) {
      __builtin_memcpy(destination + i + __builtin_ctzll(word),
                       in + used * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
      ++used;
    }
  }
  return used;
}

#if defined(__AVX512F__)
std::int64_t compress_f32(const float* source, const std::uint64_t* words, std::int64_t n,
                          void* destination) {
  auto* out = static_cast<float*>(destination);
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < n; i += 64) {
    const std::uint64_t word = words[i / 64];
    for (int part = 0; part < 4; ++part) {
      const auto lanes = static_cast<__mmask16>(word >> (16 * part));
      if (lanes == 0) continue;  // also never reads beyond n, where the bits are zero
      const __m512 kept =
          _mm512_maskz_compress_ps(lanes, _mm512_maskz_loadu_ps(lanes, source + i + 16 * part));
      const int count = __builtin_popcount(lanes);
      _mm512_mask_storeu_ps(out + used, static_cast<__mmask16>((1U << count) - 1U), kept);
      used += count;
    }
  }
  return used;
}

std::int64_t expand_f32(const void* values, const std::uint64_t* words, std::int64_t n, float* destination) {
  const auto* in = static_cast<const float*>(values);
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < n; i += 16) {
    const std::int64_t count = n - i < 16 ? n - i : 16;
    const auto lanes = static_cast<__mmask16>(words[i / 64] >> (i % 64));
    const int kept = __builtin_popcount(lanes);
    const __m512 dense = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << kept) - 1U), in + used);
    _mm512_mask_storeu_ps(destination + i, static_cast<__mmask16>((1U << count) - 1U),
                          _mm512_maskz_expand_ps(lanes, dense));
    used += kept;
  }
  return used;
}

/// 16-bit elements travel through 32-bit lanes: compressing 16-bit lanes needs an extension that AVX-512 CPUs
/// may lack.
std::int64_t compress_16(const std::uint16_t* source, const std::uint64_t* words, std::int64_t n,
                         void* destination) {
  auto* out = static_cast<std::uint16_t*>(destination);
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < n; i += 64) {
    const std::uint64_t word = words[i / 64];
    for (int part = 0; part < 4; ++part) {
      const auto lanes = static_cast<__mmask16>(word >> (16 * part));
      if (lanes == 0) continue;
      const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, source + i + 16 * part));
      const int count = __builtin_popcount(lanes);
      _mm512_mask_cvtepi32_storeu_epi16(out + used, static_cast<__mmask16>((1U << count) - 1U),
                                        _mm512_maskz_compress_epi32(lanes, wide));
      used += count;
    }
  }
  return used;
}

std::int64_t expand_16(const void* values, const std::uint64_t* words, std::int64_t n,
                       std::uint16_t* destination) {
  const auto* in = static_cast<const std::uint16_t*>(values);
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < n; i += 16) {
    const std::int64_t count = n - i < 16 ? n - i : 16;
    const auto lanes = static_cast<__mmask16>(words[i / 64] >> (i % 64));
    const int kept = __builtin_popcount(lanes);
    const __m256i dense = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1U << kept) - 1U), in + used);
    const __m512i spread = _mm512_maskz_expand_epi32(lanes, _mm512_cvtepu16_epi32(dense));
    _mm512_mask_cvtepi32_storeu_epi16(destination + i, static_cast<__mmask16>((1U << count) - 1U), spread);
    used += kept;
  }
  return used;
}
#else
std::int64_t compress_f32(const float* source, const std::uint64_t* words, std::int64_t n,
                          void* destination) {
  return compress(source, words, n, destination);
}
std::int64_t expand_f32(const void* values, const std::uint64_t* words, std::int64_t n, float* destination) {
  return expand(values, words, n, destination);
}
std::int64_t compress_16(const std::uint16_t* source, const std::uint64_t* words, std::int64_t n,
                         void* destination) {
  return compress(source, words, n, destination);
}
std::int64_t expand_16(const void* values, const std::uint64_t* words, std::int64_t n,
                       std::uint16_t* destination) {
  return expand(values, words, n, destination);
}
#endif

std::int64_t count_bits(const std::uint64_t* words, std::int64_t word_count) {
  std::int64_t ones = 0;
  for (std::int64_t i = 0; i < word_count; ++i) ones += __builtin_popcountll(words[i]);
  return ones;
}

void narrow_bf16(const float* source, std::int64_t n, void* destination) {
  auto* out = static_cast<unsigned char*>(destination);
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, source + i, 4);
    const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
    const std::uint32_t quiet_nan = (bits >> 16) | 0x40U;
    const auto narrow = static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded);
    __builtin_memcpy(out + 2 * i, &narrow, 2);
  }
}

void widen_bf16(const void* source, std::int64_t n, float* destination) {
  const auto* in = static_cast<const unsigned char*>(source);
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint16_t narrow;
    __builtin_memcpy(&narrow, in + 2 * i, 2);
    const std::uint32_t bits = static_cast<std::uint32_t>(narrow) << 16;
    __builtin_memcpy(destination + i, &bits, 4);
  }
}

void narrow_f16(const float* source, std::int64_t n, void* destination) {
  auto* out = static_cast<unsigned char*>(destination);
  std::int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i halves =
        _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __builtin_memcpy(out + 2 * i, &halves, 16);
  }
#endif
  for (; i < n; ++i) {
    const auto half = static_cast<_Float16>(source[i]);
    __builtin_memcpy(out + 2 * i, &half, 2);
  }
}

void widen_f16(const void* source, std::int64_t n, float* destination) {
  const auto* in = static_cast<const unsigned char*>(source);
  std::int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    __m128i halves;
    __builtin_memcpy(&halves, in + 2 * i, 16);
    _mm256_storeu_ps(destination + i, _mm256_cvtph_ps(halves));
  }
#endif
  for (; i < n; ++i) {
    _Float16 half;
    __builtin_memcpy(&half, in + 2 * i, 2);
    destination[i] = static_cast<float>(half);
  }
}

}  // namespace

SparseKernels sparse_kernels() {
  return {mask_to_bits, bits_to_mask, compress_f32, compress_16, expand_f32, expand_16,
          count_bits,   narrow_bf16,  widen_bf16,   narrow_f16,  widen_f16};
}

}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
