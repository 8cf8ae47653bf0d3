// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/prune/hessian.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace fedspallm::prune {

Hessian::Hessian(backend::Backend& backend, std::int64_t columns, std::int64_t sequences)
    : backend_(backend), scale_(2.0F / static_cast<float>(sequences)) {
  require(columns >= 1 && sequences >= 1, "Hessian: columns >= 1 and sequences >= 1");
  matrix_ = backend.allocate(columns, columns);
  backend.fill(matrix_, 0.0F);
}

void Hessian::add(backend::View x) {
  backend_.linear().gram(x, scale_, matrix_);
}

std::vector<float> Hessian::diagonal() const {
  std::vector<float> values(static_cast<std::size_t>(columns()));
  backend_.copy_out(matrix_.view().diagonal(), std::span<float>(values));
  return values;
}

namespace {

double mean(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// diag(H) with the published treatment of dead columns where asked, and their list.
std::vector<std::int64_t> find_dead(std::vector<float>& diagonal, config::Count count) {
  std::vector<std::int64_t> dead;
  for (std::size_t j = 0; j < diagonal.size(); ++j) {
    if (diagonal[j] != 0.0F) continue;
    dead.push_back(static_cast<std::int64_t>(j));
    if (count == config::Count::published) diagonal[j] = 1.0F;
  }
  return dead;
}

/// The upper triangle, by bands of rows, with what of the lower one lies in them.
void copy_upper(backend::Backend& backend, backend::View from, backend::View to) {
  constexpr std::int64_t band = 128;
  for (std::int64_t first = 0; first < from.rows(); first += band) {
    const std::int64_t count = std::min(band, from.rows() - first), rest = from.cols() - first;
    backend.copy(from.row_range(first, count).column_range(first, rest),
                 to.row_range(first, count).column_range(first, rest));
  }
}

}  // namespace

std::optional<Factor> factorize(backend::Backend& backend, const Hessian& hessian, double damping,
                                config::Count count) {
  const std::int64_t columns = hessian.columns();
  std::vector<float> diagonal = hessian.diagonal();
  Factor factor;
  factor.dead = find_dead(diagonal, count);
  // Without any input (rulings.md 3: every score is 0) every damping does; 1 keeps the factor finite.
  const bool all_dead = factor.dead.size() == diagonal.size() && count == config::Count::exact;
  const double mean_diagonal = all_dead ? 1.0 / damping : mean(diagonal);
  factor.upper = backend.allocate(columns, columns);
  std::vector<float> damped(diagonal.size());
  for (; factor.damping_steps <= kMaximumDampingSteps; ++factor.damping_steps) {
    factor.damping = static_cast<float>(damping);
    const auto lambda = static_cast<float>(damping * mean_diagonal);
    for (std::size_t j = 0; j < damped.size(); ++j) damped[j] = diagonal[j] + lambda;
    copy_upper(backend, hessian.matrix(), factor.upper);
    backend.copy_in(std::span<const float>(damped), factor.upper.view().diagonal());
    if (!backend.linear().inverse_upper_factor(factor.upper)) break;
    damping *= 10.0;
  }
  if (factor.damping_steps > kMaximumDampingSteps) return std::nullopt;
  factor.diagonal.resize(diagonal.size());
  backend.copy_out(factor.upper.view().diagonal(), std::span<float>(factor.diagonal));
  if (count == config::Count::exact && !factor.dead.empty()) {
    for (const std::int64_t column : factor.dead)
      factor.diagonal[static_cast<std::size_t>(column)] = std::numeric_limits<float>::infinity();
    backend.copy_in(std::span<const float>(factor.diagonal), factor.upper.view().diagonal());
  }
  return factor;
}

}  // namespace fedspallm::prune
