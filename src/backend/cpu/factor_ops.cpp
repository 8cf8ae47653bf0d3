// SPDX-License-Identifier: Apache-2.0
// H = R R^T (R upper) and U = R^-1 in place, tile by tile, parallel over rows in an order fixed by the
// shape. The diagonal tiles are factored and inverted by one thread; everything else is products of our own
// whose right operand is packed once for all rows (a library packs both for each of these small products).
#include "fedspallm/base/rounding.hpp"

#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"

namespace fedspallm::backend::cpu {

namespace {

constexpr std::int64_t tile = 96;   // columns of a step, so the depth of its products
constexpr std::int64_t piece = 48;  // rows of a unit

class Factorization {
 public:
  Factorization(Engine& engine, Matrix<float> matrix)
      : engine_(engine),
        kernels_(engine.kernels.linear),
        matrix_(matrix),
        tiles_{matrix.rows, tile},
        padded_(round_up(tile, kernels_.panel_width)) {
    const std::int64_t rows = matrix.rows;
    float* workspace = engine.shared.elements<float>(rows * (tile + padded_ + 1) + tile * padded_ +
                                                     factor_scratch_floats(tile));
    panel_ = {workspace, rows, tile, tile};
    packed_ = workspace + rows * tile;
    packed_diagonal_ = packed_ + rows * padded_;
    diagonal_ = packed_diagonal_ + tile * padded_;
    scratch_ = diagonal_ + rows;
    for (std::int64_t i = 0; i < rows; ++i) diagonal_[i] = matrix.at(i, i);
  }

  [[nodiscard]] std::optional<std::int64_t> run() {
    for (std::int64_t k = tiles_.count() - 1; k >= 0; --k) {
      if (const auto failed = factor_diagonal(tiles_[k])) return failed;
      solve_column(tiles_[k]);
      update_leading(tiles_[k]);
    }
    for (std::int64_t j = 1; j < tiles_.count(); ++j) invert_column(j);
    clear_lower();
    return std::nullopt;
  }

 private:
  [[nodiscard]] float* at(std::int64_t row, std::int64_t column) const { return matrix_.row(row) + column; }

  /// The diagonal tile becomes V = R_kk^-1 (R_kk itself is needed no more).
  [[nodiscard]] std::optional<std::int64_t> factor_diagonal(Range k) {
    const std::int64_t failed =
        engine_.kernels.prune.invert_factor_tile(at(k.first, k.first), matrix_.stride, k.size(),
                                                 diagonal_ + k.first, checks::pivot_tolerance, scratch_);
    if (failed >= 0) return k.first + failed;
    return std::nullopt;
  }

  /// R_ik = A_ik V^T for the rows above tile k, which `panel_` receives, then A, and, packed, `packed_`.
  void solve_column(Range k) {
    if (k.first == 0) return;
    kernels_.pack_rows(at(k.first, k.first), matrix_.stride, k.size(), k.size(), packed_diagonal_);
    const Cut rows{k.first, piece};
    engine_.run(rows.count(), [&](std::int64_t unit, int) {
      const Range i = rows[unit];
      multiply({at(i.first, k.first), matrix_.stride, i.size(), k.size(), packed_diagonal_},
               ProductMode::assign, {panel_.row(i.first), tile}, k.size());
      for (std::int64_t row = i.first; row < i.last; ++row)
        std::copy(panel_.row(row), panel_.row(row) + k.size(), at(row, k.first));
      kernels_.pack_rows(panel_.row(i.first), tile, i.size(), k.size(), packed_ + i.first * k.size());
    });
  }

  /// A_ij -= R_ik R_jk^T for i <= j < k. Also below the diagonal inside a unit's rows, which nobody reads.
  void update_leading(Range k) {
    const Cut rows{k.first, piece};
    engine_.run(rows.count(), [&](std::int64_t unit, int) {
      const Range i = rows[unit];
      multiply({panel_.row(i.first), tile, i.size(), k.size(), packed_ + i.first * k.size()},
               ProductMode::subtract, {at(i.first, i.first), matrix_.stride}, k.first - i.first);
    });
  }

  /// U_ij = -(sum over i <= k < j of U_ik R_kj) U_jj, all i < j.
  void invert_column(std::int64_t tile_index) {
    const Range j = tiles_[tile_index];
    engine_.kernels.gram.pack_panels(at(j.first, j.first), matrix_.stride, j.size(), j.size(),
                                     packed_diagonal_);
    engine_.run(tile_index, [&](std::int64_t unit, int) {
      const Range k = tiles_[unit];
      multiply({at(k.first, j.first), matrix_.stride, k.size(), j.size(), packed_diagonal_},
               ProductMode::assign, {panel_.row(k.first), tile}, j.size());
      engine_.kernels.gram.pack_panels(panel_.row(k.first), tile, k.size(), j.size(),
                                       packed_ + k.first * padded_);
      for (std::int64_t row = k.first; row < k.last; ++row)
        std::fill(at(row, j.first), at(row, j.first) + j.size(), 0.0F);
    });
    const Cut rows{j.first, piece};
    engine_.run(rows.count(), [&](std::int64_t unit, int) {
      const Range i = rows[unit];
      for (std::int64_t index = i.first / tile; index < tile_index; ++index) {
        const Range k = tiles_[index];
        multiply({at(i.first, k.first), matrix_.stride, i.size(), k.size(), packed_ + k.first * padded_},
                 ProductMode::subtract, {at(i.first, j.first), matrix_.stride}, j.size());
      }
    });
  }

  void clear_lower() {
    engine_.for_rows(matrix_.rows, matrix_.rows,
                     [&](std::int64_t row, int) { std::fill(at(row, 0), at(row, row), 0.0F); });
  }

  struct Operands {
    const float* left;
    std::int64_t stride_left, rows, depth;
    const float* packed;
  };
  struct Result {
    float* data;
    std::int64_t stride;
  };
  /// Of `columns` columns.
  void multiply(const Operands& from, ProductMode mode, Result to, std::int64_t columns) const {
    kernels_.multiply_packed({from.left, from.stride_left, from.rows, from.depth, from.packed,
                              from.depth * kernels_.panel_width, columns, nullptr, mode, to.data, to.stride});
  }

  Engine& engine_;
  const LinearKernels& kernels_;
  Matrix<float> matrix_;
  Cut tiles_;
  std::int64_t padded_;  // columns of a tile in whole panels
  Matrix<float> panel_;
  float* packed_ = nullptr;
  float* packed_diagonal_ = nullptr;
  float* diagonal_ = nullptr;
  float* scratch_ = nullptr;
};

}  // namespace

std::optional<std::int64_t> CpuLinear::inverse_upper_factor(View h) {
  checks::inverse_upper_factor(owner_, h);
  if (h.empty()) return std::nullopt;
  return Factorization(engine_, floats(h)).run();
}

}  // namespace fedspallm::backend::cpu
