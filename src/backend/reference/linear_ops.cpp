// SPDX-License-Identifier: Apache-2.0
#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"
#include <cmath>
#include <vector>

namespace fedspallm::backend::reference {

void ReferenceLinear::linear(View x, View w, View bias, View y, bool add) {
  checks::linear(owner_, x, w, bias, y);
  const auto input = floats(x);
  const auto weight = floats(w);
  const auto output = floats(y);
  const float* offset = bias.empty() ? nullptr : Access::f32(bias);
  for (std::int64_t row = 0; row < output.rows; ++row) {
    for (std::int64_t out = 0; out < output.cols; ++out) {
      double sum = offset == nullptr ? 0.0 : static_cast<double>(offset[out]);
      if (add) sum += static_cast<double>(output.at(row, out));
      for (std::int64_t in = 0; in < input.cols; ++in)
        sum +=
            operand(owner_->products(), input.at(row, in)) * operand(owner_->products(), weight.at(out, in));
      output.at(row, out) = static_cast<float>(sum);
    }
  }
}

void ReferenceLinear::subtract_product(View a, View b, View c) {
  checks::subtract_product(owner_, a, b, c);
  const auto left = floats(a);
  const auto right = floats(b);
  const auto result = floats(c);
  for (std::int64_t row = 0; row < result.rows; ++row) {
    for (std::int64_t col = 0; col < result.cols; ++col) {
      auto sum = static_cast<double>(result.at(row, col));
      for (std::int64_t k = 0; k < left.cols; ++k)
        sum -= static_cast<double>(left.at(row, k)) * static_cast<double>(right.at(k, col));
      result.at(row, col) = static_cast<float>(sum);
    }
  }
}

void ReferenceLinear::gram(View x, float scale, View h) {
  checks::gram(owner_, x, h);
  const auto samples = floats(x);
  const auto hessian = floats(h);
  for (std::int64_t i = 0; i < hessian.rows; ++i) {
    for (std::int64_t j = i; j < hessian.cols; ++j) {
      double sum = 0.0;
      for (std::int64_t row = 0; row < samples.rows; ++row)
        sum +=
            operand(owner_->products(), samples.at(row, i)) * operand(owner_->products(), samples.at(row, j));
      hessian.at(i, j) =
          static_cast<float>(static_cast<double>(hessian.at(i, j)) + static_cast<double>(scale) * sum);
    }
  }
}

namespace {

/// H = R R^T with R upper, columns from last to first (the Cholesky factorization of H with rows and columns
/// reversed). `matrix` is n x n row-major with the upper triangle of H; its upper triangle becomes R.
std::optional<std::int64_t> reversed_cholesky(std::vector<double>& matrix, std::int64_t n) {
  const auto at = [&](std::int64_t i, std::int64_t j) -> double& {
    return matrix[static_cast<std::size_t>(i * n + j)];
  };
  for (std::int64_t j = n - 1; j >= 0; --j) {
    const double original = at(j, j);
    for (std::int64_t i = 0; i <= j; ++i)
      for (std::int64_t k = j + 1; k < n; ++k) at(i, j) -= at(i, k) * at(j, k);
    if (!(at(j, j) > static_cast<double>(checks::pivot_tolerance) * original))
      return j;  // also when it is NaN
    const double pivot = std::sqrt(at(j, j));
    at(j, j) = pivot;
    for (std::int64_t i = 0; i < j; ++i) at(i, j) /= pivot;
  }
  return std::nullopt;
}

/// R upper -> R^-1 upper, by back substitution: row i of R R^-1 = I gives row i of R^-1 from the rows below
/// it.
std::vector<double> inverse_of_upper(const std::vector<double>& matrix, std::int64_t n) {
  std::vector<double> inverse(matrix.size(), 0.0);
  const auto index = [n](std::int64_t i, std::int64_t j) { return static_cast<std::size_t>(i * n + j); };
  for (std::int64_t i = n - 1; i >= 0; --i) {
    inverse[index(i, i)] = 1.0;
    for (std::int64_t k = i + 1; k < n; ++k)
      for (std::int64_t j = k; j < n; ++j) inverse[index(i, j)] -= matrix[index(i, k)] * inverse[index(k, j)];
    for (std::int64_t j = i; j < n; ++j) inverse[index(i, j)] /= matrix[index(i, i)];
  }
  return inverse;
}

}  // namespace

std::optional<std::int64_t> ReferenceLinear::inverse_upper_factor(View h) {
  checks::inverse_upper_factor(owner_, h);
  const auto hessian = floats(h);
  const std::int64_t n = hessian.rows;
  std::vector<double> matrix(static_cast<std::size_t>(n * n), 0.0);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i; j < n; ++j)
      matrix[static_cast<std::size_t>(i * n + j)] = static_cast<double>(hessian.at(i, j));
  if (const auto failed = reversed_cholesky(matrix, n)) return failed;
  const std::vector<double> inverse = inverse_of_upper(matrix, n);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j)
      hessian.at(i, j) = static_cast<float>(inverse[static_cast<std::size_t>(i * n + j)]);
  return std::nullopt;
}

}  // namespace fedspallm::backend::reference
