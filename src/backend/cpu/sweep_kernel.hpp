// SPDX-License-Identifier: Apache-2.0
// Purpose: the SparseGPT sweep over one panel of rows (included by prune.isa.cpp only). The panel is worked
// on transposed, so that a vector holds one column of many rows and the column recurrence needs no
// reductions. Columns go in sub-blocks: first the errors of all earlier columns are applied to the sub-block
// in registers (a small product with the errors, which stay in L1 or L2), then the recurrence runs inside the
// sub-block. Each weight receives its updates in column order, as in the plain algorithm.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"
#include "transpose_kernel.hpp"
#include <cstddef>

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

constexpr std::int64_t lanes_of_panel = sweep_panel_rows;

/// to[c][r] = -1 (all bits) where the mask byte is not 0, else 0.
inline void transpose_mask(const std::uint8_t* mask, std::int64_t stride, std::int64_t rows,
                           std::int64_t columns, std::int32_t* to) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      to[c * lanes_of_panel + r] = mask[r * stride + c] != 0 ? -1 : 0;
}

inline void store_mask(const std::int32_t* from, std::int64_t rows, std::int64_t columns, std::uint8_t* mask,
                       std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      mask[r * stride + c] = static_cast<std::uint8_t>(from[c * lanes_of_panel + r] & 1);
}

inline Ints load_ints(const std::int32_t* source) {
  Ints value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
}

/// Offset of vector v of column c.
constexpr std::int64_t at(std::size_t c, std::size_t v) {
  return static_cast<std::int64_t>(c) * lanes_of_panel + static_cast<std::int64_t>(v) * width;
}

/// t[c][r] -= sum over j < earlier of errors[j][r] u[j][c], for C columns and V vectors of rows, in
/// registers.
template <std::size_t C, std::size_t V>
inline void apply_earlier(const float* errors, const float* u, std::int64_t stride_u, std::int64_t earlier,
                          float* t) {
  Floats sums[C][V];
  for (std::size_t c = 0; c < C; ++c)
    for (std::size_t v = 0; v < V; ++v) sums[c][v] = load(t + at(c, v));
  for (std::int64_t j = 0; j < earlier; ++j) {
    Floats error[V];
    for (std::size_t v = 0; v < V; ++v) error[v] = load(errors + j * lanes_of_panel + at(0, v));
    for (std::size_t c = 0; c < C; ++c) {
      const Floats factor = all(u[j * stride_u + static_cast<std::int64_t>(c)]);
      for (std::size_t v = 0; v < V; ++v) sums[c][v] -= error[v] * factor;
    }
  }
  for (std::size_t c = 0; c < C; ++c)
    for (std::size_t v = 0; v < V; ++v) store(t + at(c, v), sums[c][v]);
}

/// Registers: 16 (32 with AVX-512): V x C sums, V errors, one factor.
constexpr int strip = width == 16 ? 4 : 2;

inline void apply_all_earlier(const float* errors, const float* u, std::int64_t stride_u,
                              std::int64_t earlier, std::int64_t columns, std::int64_t vectors, float* t) {
  if (earlier == 0) return;
  std::int64_t c = 0;
  for (; c + 4 <= columns; c += 4) {
    std::int64_t v = 0;
    for (; v + strip <= vectors; v += strip)
      apply_earlier<4, strip>(errors + v * width, u + c, stride_u, earlier,
                              t + c * lanes_of_panel + v * width);
    for (; v < vectors; ++v)
      apply_earlier<4, 1>(errors + v * width, u + c, stride_u, earlier, t + c * lanes_of_panel + v * width);
  }
  for (; c < columns; ++c)
    for (std::int64_t v = 0; v < vectors; ++v)
      apply_earlier<1, 1>(errors + v * width, u + c, stride_u, earlier, t + c * lanes_of_panel + v * width);
}

/// kept[0..m)[r] = -1 or 0 by w^2 / u_jj^2 of the group's m columns; `scores` holds the previous mask when
/// `previous`.
inline void choose_group(const float* t, const float* u, std::int64_t stride_u, int keep, int m,
                         bool previous, std::int64_t vectors, float* scores, std::int32_t* kept) {
  for (std::int64_t v = 0; v < vectors; ++v) {
    const std::int64_t lane = v * width;
    for (int i = 0; i < m; ++i) {
      const Floats w = load(t + i * lanes_of_panel + lane);
      const float diagonal = u[i * stride_u + i];
      Floats score = (w * w) / all(diagonal * diagonal);
      if (previous) score = (Ints)load(scores + i * lanes_of_panel + lane) == 0 ? all(-1.0F) : score;
      store(scores + i * lanes_of_panel + lane, score);
    }
    for (int a = 0; a < m; ++a) {
      const Floats score = load(scores + a * lanes_of_panel + lane);
      Ints rank = {};
      for (int b = 0; b < a; ++b) rank -= load(scores + b * lanes_of_panel + lane) <= score;
      for (int b = a + 1; b < m; ++b) rank -= load(scores + b * lanes_of_panel + lane) < score;
      const Ints result = rank >= m - keep;
      __builtin_memcpy(kept + a * lanes_of_panel + lane, &result, sizeof result);
    }
  }
}

/// The recurrence inside a sub-block whose columns already carry all earlier errors.
inline void sweep_columns(const SweepPanel& panel, std::int64_t first, std::int64_t columns,
                          std::int64_t vectors, float* t, float* errors, float* scores, std::int32_t* kept) {
  const float* u = panel.u + first * panel.stride_u + first;
  for (std::int64_t j = 0; j < columns; ++j) {
    if (panel.m > 0 && j % panel.m == 0)
      choose_group(t + j * lanes_of_panel, u + j * panel.stride_u + j, panel.stride_u, panel.keep, panel.m,
                   panel.previous_mask != nullptr, vectors, scores + j * lanes_of_panel,
                   kept + j * lanes_of_panel);
    const float* row = u + j * panel.stride_u;
    const Floats diagonal = all(row[j]);
    for (std::int64_t v = 0; v < vectors; ++v) {
      float* column = t + j * lanes_of_panel + v * width;
      const Floats w = load(column);
      const Floats q = load_ints(kept + j * lanes_of_panel + v * width) != 0 ? w : Floats{};
      const Floats error = (w - q) / diagonal;
      store(column, q);
      store(errors + j * lanes_of_panel + v * width, error);
      for (std::int64_t k = j + 1; k < columns; ++k) {
        float* later = t + k * lanes_of_panel + v * width;
        store(later, load(later) - error * all(row[k]));
      }
    }
  }
}

void sweep(const SweepPanel& panel, float* scratch) {
  const std::int64_t sub_block = sweep_sub_block(panel.m);
  float* errors = scratch;
  float* t = errors + panel.columns * lanes_of_panel;
  float* scores = t + sub_block * lanes_of_panel;
  auto* kept = reinterpret_cast<std::int32_t*>(scores + sub_block * lanes_of_panel);
  const std::int64_t vectors = (panel.rows + width - 1) / width;
  // Lanes beyond the last row stay 0: weight 0, error 0.
  for (std::int64_t i = 0; i < 3 * sub_block * lanes_of_panel; ++i) t[i] = 0.0F;
  for (std::int64_t first = 0; first < panel.columns; first += sub_block) {
    const std::int64_t columns = panel.columns - first < sub_block ? panel.columns - first : sub_block;
    transpose(panel.w + first, panel.stride_w, panel.rows, columns, t, lanes_of_panel);
    if (panel.m == 0) transpose_mask(panel.mask + first, panel.stride_mask, panel.rows, columns, kept);
    if (panel.previous_mask != nullptr)
      transpose_mask(panel.previous_mask + first, panel.stride_previous, panel.rows, columns,
                     reinterpret_cast<std::int32_t*>(scores));
    float* new_errors = errors + first * lanes_of_panel;
    apply_all_earlier(errors, panel.u + first, panel.stride_u, first, columns, vectors, t);
    sweep_columns(panel, first, columns, vectors, t, new_errors, scores, kept);
    transpose(t, lanes_of_panel, columns, panel.rows, panel.w + first, panel.stride_w);
    transpose(new_errors, lanes_of_panel, columns, panel.rows, panel.error + first, panel.stride_error);
    if (panel.m > 0) store_mask(kept, panel.rows, columns, panel.mask + first, panel.stride_mask);
  }
}

}  // namespace
}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
