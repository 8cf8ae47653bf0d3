// SPDX-License-Identifier: Apache-2.0
// Scores, the keys and histograms of selection by radix, and choices within N:M groups.
#include "factor_kernel.hpp"
#include "kernels.hpp"
#include "simd.hpp"
#include "sweep_kernel.hpp"

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

void saliency(const float* w, const float* diagonal, float* score, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) score[i] = (w[i] * w[i]) / (diagonal[i] * diagonal[i]);
}

void weighted_magnitude(const float* w, const float* factor, float* score, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) score[i] = __builtin_fabsf(w[i]) * factor[i];
}

void prefer_dropped(const std::uint8_t* mask, float* score, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) score[i] = mask[i] == 0 ? -1.0F : score[i];
}

void apply_mask(const std::uint8_t* mask, float* w, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) w[i] = mask[i] == 0 ? 0.0F : w[i];
}

double sum_of_squares(const float* x, std::int64_t n) {
  double lanes[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) lanes[k] += static_cast<double>(x[i + k]) * static_cast<double>(x[i + k]);
  for (int k = 0; i < n; ++i, ++k) lanes[k] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

constexpr std::int64_t key_chunk = 512;

/// Unsigned numbers in the order of the floats; -0 and 0 give the same one.
inline std::int64_t ordered_keys(const float* scores, std::int64_t n, std::uint32_t* keys) {
  const std::int64_t count = n < key_chunk ? n : key_chunk;
  for (std::int64_t i = 0; i < count; ++i) {
    const float score = scores[i] + 0.0F;
    std::uint32_t bits;
    __builtin_memcpy(&bits, &score, 4);
    keys[i] = bits ^ (static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 31) | 0x80000000U);
  }
  return count;
}

void histogram(const float* scores, std::int64_t n, std::uint32_t* counts) {
  std::uint32_t keys[key_chunk];
  for (std::int64_t first = 0; first < n; first += key_chunk) {
    const std::int64_t count = ordered_keys(scores + first, n - first, keys);
    std::int64_t i = 0;
    for (; i + 2 <= count; i += 2) {
      ++counts[keys[i] >> kSelectionShift];
      ++counts[kSelectionBins + (keys[i + 1] >> kSelectionShift)];
    }
    if (i < count) ++counts[keys[i] >> kSelectionShift];
  }
}

#if defined(__AVX512F__)
/// The keys of this chunk with that digit go to `to`. @return their number
inline std::int64_t collect_chunk(const std::uint32_t* keys, std::int64_t count, std::uint32_t digit,
                                  std::uint32_t* to) {
  const __m512i wanted = _mm512_set1_epi32(static_cast<int>(digit));
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < count; i += 16) {
    const auto valid = static_cast<__mmask16>(count - i < 16 ? (1U << (count - i)) - 1U : 0xffffU);
    const __m512i some = _mm512_maskz_loadu_epi32(valid, keys + i);
    const __mmask16 lanes =
        _mm512_mask_cmpeq_epi32_mask(valid, _mm512_srli_epi32(some, kSelectionShift), wanted);
    if (lanes == 0) continue;
    const int matches = __builtin_popcount(lanes);
    _mm512_mask_storeu_epi32(to + found, static_cast<__mmask16>((1U << matches) - 1U),
                             _mm512_maskz_compress_epi32(lanes, some));
    found += matches;
  }
  return found;
}
#else
inline std::int64_t collect_chunk(const std::uint32_t* keys, std::int64_t count, std::uint32_t digit,
                                  std::uint32_t* to) {
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < count; ++i)
    if (keys[i] >> kSelectionShift == digit) to[found++] = keys[i];
  return found;
}
#endif

std::int64_t collect_keys(const float* scores, std::int64_t n, std::uint32_t digit, std::uint32_t* keys) {
  std::uint32_t chunk[key_chunk];
  std::int64_t found = 0;
  for (std::int64_t first = 0; first < n; first += key_chunk) {
    const std::int64_t count = ordered_keys(scores + first, n - first, chunk);
    found += collect_chunk(chunk, count, digit, keys + found);
  }
  return found;
}

std::int64_t threshold_mask(const float* scores, std::int64_t n, std::uint32_t threshold,
                            std::int64_t equal_to_drop, std::uint8_t* mask) {
  std::uint32_t keys[key_chunk];
  std::int64_t dropped = 0;
  for (std::int64_t first = 0; first < n; first += key_chunk) {
    const std::int64_t count = ordered_keys(scores + first, n - first, keys);
    std::uint8_t* out = mask + first;
    std::int64_t equal = 0;
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<std::uint8_t>(keys[i] > threshold);
    for (std::int64_t i = 0; i < count; ++i) equal += keys[i] == threshold ? 1 : 0;
    if (equal > equal_to_drop - dropped) {  // keep the later ones of the equal scores
      std::int64_t left = equal_to_drop - dropped;
      for (std::int64_t i = 0; i < count; ++i) {
        if (keys[i] != threshold) continue;
        if (left > 0) {
          --left;
        } else {
          out[i] = 1;
        }
      }
      dropped = equal_to_drop;
    } else {
      dropped += equal;
    }
  }
  return dropped;
}

/// In each group an element's rank is the number of those before it in (score, column) order; ranks below m -
/// keep drop.
template <int M>
inline void groups_of(const float* scores, std::int64_t groups, int keep, int m, std::uint8_t* mask) {
  const int size = M > 0 ? M : m;
  for (std::int64_t group = 0; group < groups; ++group) {
    const float* s = scores + group * size;
    for (int a = 0; a < size; ++a) {
      int rank = 0;
      for (int b = 0; b < a; ++b) rank += s[b] <= s[a] ? 1 : 0;
      for (int b = a + 1; b < size; ++b) rank += s[b] < s[a] ? 1 : 0;
      mask[group * size + a] = static_cast<std::uint8_t>(rank >= size - keep);
    }
  }
}

void select_n_of_m(const float* scores, std::int64_t groups, int keep, int m, std::uint8_t* mask) {
  switch (m) {
    case 2:
      return groups_of<2>(scores, groups, keep, m, mask);
    case 4:
      return groups_of<4>(scores, groups, keep, m, mask);
    case 8:
      return groups_of<8>(scores, groups, keep, m, mask);
    default:
      return groups_of<0>(scores, groups, keep, m, mask);
  }
}

}  // namespace

PruneKernels prune_kernels() {
  return {saliency,     weighted_magnitude, prefer_dropped, apply_mask,         sum_of_squares, histogram,
          collect_keys, threshold_mask,     select_n_of_m,  invert_factor_tile, sweep};
}

}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
