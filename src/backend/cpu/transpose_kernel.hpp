// SPDX-License-Identifier: Apache-2.0
// Purpose: transposes small rectangles of floats, four by four (sweep_kernel.hpp, linear.isa.cpp).
#pragma once

#include "simd.hpp"

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

typedef float Quad __attribute__((vector_size(16)));              // NOLINT: attributes need typedef
typedef std::int32_t QuadIndex __attribute__((vector_size(16)));  // NOLINT

inline void transpose_quads(Quad& a, Quad& b, Quad& c, Quad& d) {
  const Quad ab_low = __builtin_shuffle(a, b, QuadIndex{0, 4, 1, 5});
  const Quad ab_high = __builtin_shuffle(a, b, QuadIndex{2, 6, 3, 7});
  const Quad cd_low = __builtin_shuffle(c, d, QuadIndex{0, 4, 1, 5});
  const Quad cd_high = __builtin_shuffle(c, d, QuadIndex{2, 6, 3, 7});
  a = __builtin_shuffle(ab_low, cd_low, QuadIndex{0, 1, 4, 5});
  b = __builtin_shuffle(ab_low, cd_low, QuadIndex{2, 3, 6, 7});
  c = __builtin_shuffle(ab_high, cd_high, QuadIndex{0, 1, 4, 5});
  d = __builtin_shuffle(ab_high, cd_high, QuadIndex{2, 3, 6, 7});
}

/// to[c * to_stride + r] = from[r * from_stride + c]
inline void transpose(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t columns,
                      float* to, std::int64_t to_stride) {
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    std::int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      Quad quads[4];
      for (int k = 0; k < 4; ++k) __builtin_memcpy(&quads[k], from + (r + k) * from_stride + c, 16);
      transpose_quads(quads[0], quads[1], quads[2], quads[3]);
      for (int k = 0; k < 4; ++k) __builtin_memcpy(to + (c + k) * to_stride + r, &quads[k], 16);
    }
    for (; c < columns; ++c)
      for (int k = 0; k < 4; ++k) to[c * to_stride + r + k] = from[(r + k) * from_stride + c];
  }
  for (; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
}

}  // namespace
}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
