// SPDX-License-Identifier: Apache-2.0
// Purpose: the Hessian H = (2/n) sum x x^T of one input group (n counts sequences), its diagonal, damping and
// the factor U with H^-1 = U^T U (SparseGPT, arXiv 2301.00774; design.md section 2). One Hessian serves all
// matrices of the group. Non-goal: deciding what happens when no damping helps; that is a return value.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/config/config.hpp"

#include <cstdint>
#include <optional>
#include <vector>

namespace fedspallm::prune {

/// Accumulates H on the upper triangle of a columns x columns tensor.
class Hessian {
 public:
  /// @param sequences  n of (2/n): number of sequences that will be added in all. @pre columns, sequences >=
  /// 1
  Hessian(backend::Backend& backend, std::int64_t columns, std::int64_t sequences);
  /// Adds the rows of x (tokens x columns).
  void add(backend::View x);
  /// diag(H), undamped, on the host.
  [[nodiscard]] std::vector<float> diagonal() const;
  [[nodiscard]] std::int64_t columns() const { return matrix_.cols(); }
  [[nodiscard]] backend::View matrix() const { return matrix_; }

 private:
  backend::Backend& backend_;
  float scale_;
  backend::Tensor matrix_;
};

/// What the sweep needs of a Hessian.
struct Factor {
  backend::Tensor upper;  // U, upper triangular; +inf on the diagonal at dead columns when count = exact
  std::vector<float> diagonal;     // of U, as in `upper`
  std::vector<std::int64_t> dead;  // columns with H_jj = 0
  float damping = 0;               // relative damping that worked
  int damping_steps = 0;           // how often it was raised by 10
};

constexpr int kMaximumDampingSteps = 5;

/// lambda = damping * mean(diag H) is added to the diagonal; where that is not positive definite, damping x10
/// up to five times. Dead columns: `published` sets H_jj = 1 first; `exact` lets their scores be 0 through an
/// infinite U_jj (rulings.md 3).
/// @return nothing when no damping helps. `hessian` is not changed.
[[nodiscard]] std::optional<Factor> factorize(backend::Backend& backend, const Hessian& hessian,
                                              double damping, config::Count count);

}  // namespace fedspallm::prune
