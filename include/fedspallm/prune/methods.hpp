// SPDX-License-Identifier: Apache-2.0
// Purpose: pruning one matrix: SparseGPT (arXiv 2301.00774), Wanda (arXiv 2306.11695), magnitude, random;
// unstructured and N:M; exact counts (rulings.md 3-5). Works on a backend's views only. Non-goals: where the
// inputs come from (block_pruner), merging.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/config/config.hpp"
#include "fedspallm/prune/hessian.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::prune {

/// How much to drop and by which rule; one round's view of [prune].
struct Settings {
  config::Method method = config::Method::sparsegpt;
  double sparsity = 0.5;      // of this round
  config::Pattern pattern{};  // of this round
  std::int64_t block_size = 128;
  double damping = 0.01;
  config::Order order = config::Order::staged;
  config::Count count = config::Count::exact;
};

/// [prune] of one round of the schedule (rulings.md 9). N:M rounds drop proportionally fewer per group.
[[nodiscard]] Settings settings_of_round(const config::Config& config, int round);

/// Weights dropped by each of consecutive regions that end at the given sizes, so that the running total is
/// exact_count(sparsity, end) and what was dropped before (`previous`, per region; empty = none) is always
/// included. The sum is max(exact_count(sparsity, total), sum of previous).
[[nodiscard]] std::vector<std::int64_t> counts_by_region(double sparsity,
                                                         std::span<const std::int64_t> region_sizes,
                                                         std::span<const std::int64_t> previous);

/// What pruning a matrix needs and gives. Scratch tensors are kept from call to call.
class MatrixPruner {
 public:
  MatrixPruner(backend::Backend& backend, const Settings& settings);

  /// Prunes w (rows x cols) in place and writes mask (u8, rows x cols).
  /// @param previous_mask  what earlier rounds dropped (0), or empty
  /// @return sum of squared scaled errors (w - q)^2 / U_jj^2
  double sparsegpt(backend::View w, const Factor& factor, backend::View previous_mask, backend::View mask);
  /// score = |w| sqrt(diag H)_j per output row. @return sum of squares of the dropped scores
  double wanda(backend::View w, std::span<const float> hessian_diagonal, backend::View previous_mask,
               backend::View mask);
  double magnitude(backend::View w, backend::View previous_mask, backend::View mask);
  /// @param key  names client, block and matrix
  double random(backend::View w, const RandomKey& key, backend::View previous_mask, backend::View mask);

  /// @throws ConfigError naming the matrix when an N:M group divides neither its columns nor the block size
  /// (rulings.md 5).
  static void check_shape(const Settings& settings, const std::string& name, std::int64_t cols);

 private:
  backend::View scratch(backend::Tensor& tensor, std::int64_t rows, std::int64_t cols);
  /// Weights that an earlier round dropped, for each region of so many rows and columns, row by row; none
  /// without a mask.
  std::vector<std::int64_t> dropped_before(backend::View previous_mask, std::int64_t region_rows,
                                           std::int64_t region_columns);
  void select(backend::View score, backend::View previous_mask, bool per_row, backend::View mask);
  double drop(backend::View w, backend::View score, backend::View previous_mask, bool per_row,
              backend::View mask);

  backend::Backend& backend_;
  Settings settings_;
  backend::Tensor score_, error_, factor_row_;
};

}  // namespace fedspallm::prune
