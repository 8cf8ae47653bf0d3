// SPDX-License-Identifier: Apache-2.0
// Purpose: the register block of our own matrix products (gram.isa.cpp, attention.isa.cpp): M rows x V
// vectors of C are accumulated in registers over k. OpenBLAS does the general products; ours exist where
// packing once for many tiles or stopping at a diagonal saves more than a general routine can. Non-goals:
// general shapes, threads.
#pragma once

#include "operand_words.hpp"
#include <cstddef>

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

/// Sums over p < k words of a[i * row_a + p * step_a] * b[v * panel_b + p * step_b + lane], for M rows i and
/// V vectors v, handed to finish(i, v, sum) straight from registers.
template <std::size_t M, std::size_t V, class Finish>
inline void multiply(const float* a, std::int64_t row_a, std::int64_t step_a, const float* b,
                     std::int64_t panel_b, std::int64_t step_b, std::int64_t k, Finish finish) {
  Floats sums[M][V] = {};
  for (std::int64_t p = 0; p < k; ++p) {
    Floats right[V];
    for (std::size_t v = 0; v < V; ++v) right[v] = load(b + static_cast<std::int64_t>(v) * panel_b);
    for (std::size_t i = 0; i < M; ++i) {
      const Floats left = word_in_all(a + static_cast<std::int64_t>(i) * row_a);
      for (std::size_t v = 0; v < V; ++v) sums[i][v] = multiply_add(left, right[v], sums[i][v]);
    }
    a += step_a;
    b += step_b;
  }
  for (std::size_t i = 0; i < M; ++i)
    for (std::size_t v = 0; v < V; ++v)
      finish(static_cast<std::int64_t>(i), static_cast<std::int64_t>(v), sums[i][v]);
}

}  // namespace
}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
