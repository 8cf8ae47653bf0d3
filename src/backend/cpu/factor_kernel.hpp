// SPDX-License-Identifier: Apache-2.0
// Purpose: a diagonal tile of the factorization (included by prune.isa.cpp only): from A = R R^T to V = R^-1,
// by steps of 16 columns. A step's own 16 x 16 block goes element by element; all else are products of 16
// deep register blocks. Non-goals: more than one thread, tiles beyond some hundred columns.
#pragma once

#include "kernels.hpp"
#include "product_kernel.hpp"
#include "simd.hpp"
#include <cstddef>

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

constexpr std::int64_t factor_step = kFactorStep;
constexpr std::size_t step_vectors = factor_step / width;
constexpr std::size_t step_rows = width == 4 ? 2 : width / 2;  // a divisor of 16
static_assert(factor_step % width == 0 && factor_step % static_cast<std::int64_t>(step_rows) == 0);

/// One step's block, row-major.
struct StepBlock {
  alignas(64) float at[factor_step][factor_step];
};

/// The upper triangle becomes R with block = R R^T. @return -1, or the column whose pivot is too small
inline std::int64_t factor_step_block(StepBlock& block, const float* diagonal, std::int64_t columns,
                                      float tolerance) {
  for (std::int64_t j = columns - 1; j >= 0; --j) {
    const float square = block.at[j][j];
    if (!(square > tolerance * diagonal[j])) return j;  // also when it is NaN
    const float pivot = __builtin_sqrtf(square);
    block.at[j][j] = pivot;
    for (std::int64_t i = 0; i < j; ++i) block.at[i][j] /= pivot;
    for (std::int64_t i = 0; i < j; ++i)
      for (std::int64_t k = i; k < j; ++k) block.at[i][k] -= block.at[i][j] * block.at[k][j];
  }
  return -1;
}

/// The inverse of the upper triangle of r; zeros below.
inline void invert_step_block(const StepBlock& r, StepBlock& inverse) {
  for (std::int64_t i = factor_step - 1; i >= 0; --i) {
    const float reciprocal = 1.0F / r.at[i][i];
    float sums[factor_step] = {};
    for (std::int64_t k = i + 1; k < factor_step; ++k)
      for (std::int64_t j = 0; j < factor_step; ++j) sums[j] += r.at[i][k] * inverse.at[k][j];
    for (std::int64_t j = 0; j < factor_step; ++j) inverse.at[i][j] = j > i ? -reciprocal * sums[j] : 0.0F;
    inverse.at[i][i] = reciprocal;
  }
}

/// A tile padded to whole steps, so that no loop has a rest: the identity beyond its end.
struct PaddedTile {
  float* data;
  std::int64_t columns, stride;
  [[nodiscard]] float* row(std::int64_t i) const { return data + i * stride; }
};

inline void load_tile(const float* a, std::int64_t stride, std::int64_t n, const PaddedTile& tile) {
  for (std::int64_t i = 0; i < tile.columns; ++i)
    for (std::int64_t j = 0; j < tile.columns; ++j)
      tile.row(i)[j] = i < n && j < n ? (j >= i ? a[i * stride + j] : 0.0F) : (i == j ? 1.0F : 0.0F);
}

/// A_i,step = A_i,step V^T for the rows above the step; their transpose goes to `panel`.
inline void solve_step(const PaddedTile& tile, std::int64_t first, const StepBlock& inverse, float* panel) {
  StepBlock turned;
  for (std::int64_t i = 0; i < factor_step; ++i)
    for (std::int64_t j = 0; j < factor_step; ++j) turned.at[i][j] = inverse.at[j][i];
  StepBlock solved;
  for (std::int64_t row = 0; row < first; row += static_cast<std::int64_t>(step_rows)) {
    float* a = tile.row(row) + first;
    multiply<step_rows, step_vectors>(
        a, tile.stride, 1, &turned.at[0][0], width, factor_step, factor_step,
        [&](std::int64_t i, std::int64_t v, Floats sum) { store(&solved.at[i][v * width], sum); });
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(step_rows); ++i)
      for (std::int64_t j = 0; j < factor_step; ++j) {
        a[i * tile.stride + j] = solved.at[i][j];
        panel[j * tile.stride + row + i] = solved.at[i][j];
      }
  }
}

/// A_ij -= R_i,step R_j,step^T for i <= j < first, also in what lies below the diagonal of a step's block.
inline void update_before_step(const PaddedTile& tile, std::int64_t first, const float* panel) {
  for (std::int64_t row = 0; row < first; row += static_cast<std::int64_t>(step_rows))
    for (std::int64_t column = row / factor_step * factor_step; column < first; column += factor_step) {
      float* to = tile.row(row) + column;
      multiply<step_rows, step_vectors>(tile.row(row) + first, tile.stride, 1, panel + column, width,
                                        tile.stride, factor_step,
                                        [&](std::int64_t i, std::int64_t v, Floats sum) {
                                          float* c = to + i * tile.stride + v * width;
                                          store(c, load(c) - sum);
                                        });
    }
}

/// V_i,step = -(sum over i <= k < first of V_ik R_k,step) V_step for the rows above the step.
inline void invert_above_step(const PaddedTile& r, const PaddedTile& inverse, std::int64_t first) {
  StepBlock sums;
  for (std::int64_t row = 0; row < first; row += static_cast<std::int64_t>(step_rows)) {
    const std::int64_t from = row / factor_step * factor_step;
    multiply<step_rows, step_vectors>(
        inverse.row(row) + from, inverse.stride, 1, r.row(from) + first, width, r.stride, first - from,
        [&](std::int64_t i, std::int64_t v, Floats sum) { store(&sums.at[i][v * width], sum); });
    float* to = inverse.row(row) + first;
    multiply<step_rows, step_vectors>(&sums.at[0][0], factor_step, 1, inverse.row(first) + first, width,
                                      inverse.stride, factor_step,
                                      [&](std::int64_t i, std::int64_t v, Floats sum) {
                                        store(to + i * inverse.stride + v * width, -sum);
                                      });
  }
}

std::int64_t invert_factor_tile(float* a, std::int64_t stride, std::int64_t n, const float* diagonal,
                                float tolerance, float* scratch) {
  const std::int64_t columns = (n + factor_step - 1) / factor_step * factor_step;
  const std::int64_t tile_stride = columns + factor_step;  // not a power of two: lines of a column spread
  const PaddedTile r{scratch, columns, tile_stride};
  const PaddedTile inverse{scratch + columns * tile_stride, columns, tile_stride};
  float* panel = scratch + 2 * columns * tile_stride;
  load_tile(a, stride, n, r);
  for (std::int64_t i = 0; i < columns * tile_stride; ++i) inverse.data[i] = 0.0F;
  StepBlock block, block_inverse;
  for (std::int64_t first = columns - factor_step; first >= 0; first -= factor_step) {
    const std::int64_t inside = n - first < factor_step ? n - first : factor_step;
    for (std::int64_t i = 0; i < factor_step; ++i)
      __builtin_memcpy(block.at[i], r.row(first + i) + first, sizeof block.at[i]);
    const std::int64_t failed = factor_step_block(block, diagonal + first, inside, tolerance);
    if (failed >= 0) return first + failed;
    invert_step_block(block, block_inverse);
    for (std::int64_t i = 0; i < factor_step; ++i)
      __builtin_memcpy(inverse.row(first + i) + first, block_inverse.at[i], sizeof block_inverse.at[i]);
    solve_step(r, first, block_inverse, panel);
    update_before_step(r, first, panel);
  }
  for (std::int64_t first = factor_step; first < columns; first += factor_step)
    invert_above_step(r, inverse, first);
  for (std::int64_t i = 0; i < n; ++i)
    __builtin_memcpy(a + i * stride, inverse.row(i), static_cast<std::size_t>(n) * sizeof(float));
  return -1;
}

}  // namespace
}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
