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

/// s[i] = exp(scale (s[i] - max s)) for whole vectors; -infinity gives 0, NaN stays. @return 1 / (their sum).
/// With y = scale log2(e) (s - max) <= 0: 2^y = 2^n 2^r, n = round(y), 2^r fitted to 2e-9 (minimax by
/// reweighted least squares). y carries |y| 2^-24 of rounding, which weighs nothing where e^y is small. @pre
/// vectors >= 1, scale > 0
inline float softmax_weights(float* s, float scale, std::int64_t vectors) {
  const std::int64_t n = vectors * width;
  constexpr float round_magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Floats factor = all(scale * 1.44269504F);
  const Floats top = all(largest(s, n)) * factor;
  Floats total = {};
  for (std::int64_t i = 0; i < n; i += width) {
    const Floats y = load(s + i) * factor - top;
    const Floats shifted = y + round_magic;
    const Floats r = y - (shifted - round_magic);
    Floats p = all(0.00015353299386333674F);
    p = p * r + 0.0013398951850831509F;
    p = p * r + 0.009618437848985195F;
    p = p * r + 0.055503323674201965F;
    p = p * r + 0.24022647738456726F;
    p = p * r + 0.6931471824645996F;
    p = p * r + 1.0F;
    const Floats e = (Floats)((Ints)p + ((Ints)shifted << 23));  // n lies in the low bits of `shifted`
    const Floats weight = y < all(-126.0F) ? Floats{} : e;
    store(s + i, weight);
    total += weight;
  }
  return 1.0F / sum_of(total);
}

}  // namespace
}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
