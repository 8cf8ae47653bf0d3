// SPDX-License-Identifier: Apache-2.0
// H = R R^T (R upper) and U = R^-1 in place, tile by tile, parallel over tiles in an order fixed by the
// shape. The diagonal tiles are factored and inverted by one thread; everything else is products with K =
// tile size or more.
#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"

namespace fedspallm::backend::cpu {

namespace {

constexpr std::int64_t tile = 128;

class Factorization {
 public:
  Factorization(Engine& engine, Matrix<float> matrix)
      : engine_(engine), matrix_(matrix), tiles_{matrix.rows, tile} {
    float* workspace = engine.shared.elements<float>(matrix.rows * (tile + 1) + factor_scratch_floats(tile));
    panel_ = {workspace, matrix.rows, tile, tile};
    diagonal_ = workspace + matrix.rows * tile;
    scratch_ = diagonal_ + matrix.rows;
    for (std::int64_t i = 0; i < matrix.rows; ++i) diagonal_[i] = matrix.at(i, i);
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

  /// R_ik = A_ik V^T for the rows above tile k. `panel_` receives it, then A.
  void solve_column(Range k) {
    const Cut rows{k.first, tile};
    engine_.run(rows.count(), [&](std::int64_t unit, int) {
      const Range i = rows[unit];
      engine_.blas.gemm(false, true, i.size(), k.size(), k.size(), 1.0F, at(i.first, k.first), matrix_.stride,
                        at(k.first, k.first), matrix_.stride, 0.0F, panel_.row(i.first), tile);
      for (std::int64_t row = i.first; row < i.last; ++row)
        std::copy(panel_.row(row), panel_.row(row) + k.size(), at(row, k.first));
    });
  }

  /// A_ij -= R_ik R_jk^T for i <= j < k. Also below the diagonal inside diagonal tiles, which nobody reads.
  void update_leading(Range k) {
    const Cut blocks = even_cut(k.first, 256, tile);
    const std::int64_t count = blocks.count();
    engine_.run(count * (count + 1) / 2, [&](std::int64_t unit, int) {
      std::int64_t i = 0;  // unit counts the tiles (i, j >= i) row by row
      for (std::int64_t left = unit; left >= count - i; ++i) left -= count - i;
      const std::int64_t j = unit - (i * count - i * (i - 1) / 2) + i;
      const Range rows = blocks[i];
      const Range columns = blocks[j];
      engine_.blas.gemm(false, true, rows.size(), columns.size(), k.size(), -1.0F, panel_.row(rows.first),
                        tile, panel_.row(columns.first), tile, 1.0F, at(rows.first, columns.first),
                        matrix_.stride);
    });
  }

  /// U_ij = -(sum over i <= k < j of U_ik R_kj) U_jj, all i < j.
  void invert_column(std::int64_t tile_index) {
    const Range j = tiles_[tile_index];
    engine_.run(tile_index, [&](std::int64_t unit, int) {
      const Range k = tiles_[unit];
      engine_.blas.gemm(false, false, k.size(), j.size(), j.size(), -1.0F, at(k.first, j.first),
                        matrix_.stride, at(j.first, j.first), matrix_.stride, 0.0F, panel_.row(k.first),
                        tile);
    });
    engine_.run(tile_index, [&](std::int64_t unit, int) {
      const Range i = tiles_[unit];
      engine_.blas.gemm(false, false, i.size(), j.size(), j.first - i.first, 1.0F, at(i.first, i.first),
                        matrix_.stride, panel_.row(i.first), tile, 0.0F, at(i.first, j.first),
                        matrix_.stride);
    });
  }

  void clear_lower() {
    engine_.for_rows(matrix_.rows, matrix_.rows,
                     [&](std::int64_t row, int) { std::fill(at(row, 0), at(row, row), 0.0F); });
  }

  Engine& engine_;
  Matrix<float> matrix_;
  Cut tiles_;
  Matrix<float> panel_;
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
