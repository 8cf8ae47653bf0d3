// SPDX-License-Identifier: Apache-2.0
// Purpose: maximum and softmax weights of one row (model.isa.cpp, attention.isa.cpp).
#pragma once

#include "simd.hpp"

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

inline float largest(const float* x, std::int64_t n) {
  Floats top[2] = {all(-__builtin_inff()), all(-__builtin_inff())};
  std::int64_t i = 0;
  for (; i + 2 * width <= n; i += 2 * width)
    for (int k = 0; k < 2; ++k) top[k] = larger(load(x + i + k * width), top[k]);
  for (; i + width <= n; i += width) top[0] = larger(load(x + i), top[0]);
  if (i < n) top[1] = larger(load_part(x + i, n - i, -__builtin_inff()), top[1]);
  return largest_of(larger(top[0], top[1]));
}

/// s[i] = exp(scale (s[i] - max s)) for i < n. @return 1 / (their sum). @pre n >= 1, scale > 0
inline float softmax_weights(float* s, float scale, std::int64_t n) {
  const Floats top = all(largest(s, n));
  const Floats factor = all(scale);
  Floats total[2] = {};
  std::int64_t i = 0;
  for (; i + 2 * width <= n; i += 2 * width) {
    for (int k = 0; k < 2; ++k) {
      const Floats e = exponential((load(s + i + k * width) - top) * factor);
      store(s + i + k * width, e);
      total[k] += e;
    }
  }
  for (; i < n; i += width) {
    const std::int64_t count = n - i < width ? n - i : width;
    const Floats part = count == width ? load(s + i) : load_part(s + i, count, 0.0F);
    const Floats e = exponential((part - top) * factor);
    float lanes[width];
    store(lanes, e);
    for (int k = 0; k < width; ++k)
      if (k >= count) lanes[k] = 0.0F;
    total[0] += load(lanes);
    for (std::int64_t k = 0; k < count; ++k) s[i + k] = lanes[k];
  }
  return 1.0F / sum_of(total[0] + total[1]);
}

}  // namespace
}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
