// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/dtype.hpp"

#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace fedspallm::backend::reference {

namespace {

/// Indices of the scores from smallest to largest, equal ones by index.
std::vector<std::size_t> ascending(const std::vector<float>& scores) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
  return order;
}

/// All elements, row-major.
std::vector<float> flattened(Matrix<float> matrix) {
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(matrix.size()));
  for (std::int64_t row = 0; row < matrix.rows; ++row)
    values.insert(values.end(), matrix.row(row), matrix.row(row) + matrix.cols);
  return values;
}

/// keep[i] = 0 at the `count` smallest scores, 1 elsewhere.
std::vector<std::uint8_t> drop_smallest(const std::vector<float>& scores, std::int64_t count) {
  std::vector<std::uint8_t> keep(scores.size(), 1);
  const std::vector<std::size_t> order = ascending(scores);
  for (std::int64_t i = 0; i < count; ++i) keep[order[static_cast<std::size_t>(i)]] = 0;
  return keep;
}

}  // namespace

void ReferencePrune::saliency(View w, View diag, View score) {
  checks::scores(owner_, w, diag, score);
  const auto weights = floats(w);
  const auto scores = floats(score);
  const float* d = Access::f32(diag);
  for (std::int64_t row = 0; row < weights.rows; ++row)
    for (std::int64_t col = 0; col < weights.cols; ++col)  // in fp32, as published: the rule's own rounding
      scores.at(row, col) = (weights.at(row, col) * weights.at(row, col)) / (d[col] * d[col]);
}

void ReferencePrune::weighted_magnitude(View w, View factor, View score) {
  checks::scores(owner_, w, factor, score);
  const auto weights = floats(w);
  const auto scores = floats(score);
  const float* factors = Access::f32(factor);
  for (std::int64_t row = 0; row < weights.rows; ++row)
    for (std::int64_t col = 0; col < weights.cols; ++col)
      scores.at(row, col) = std::fabs(weights.at(row, col)) * factors[col];
}

void ReferencePrune::prefer_dropped(View previous_mask, View score) {
  checks::prefer_dropped(owner_, previous_mask, score);
  const auto mask = bytes(previous_mask);
  const auto scores = floats(score);
  for (std::int64_t row = 0; row < scores.rows; ++row)
    for (std::int64_t col = 0; col < scores.cols; ++col)
      if (mask.at(row, col) == 0) scores.at(row, col) = -1.0F;
}

void ReferencePrune::select_smallest(View score, std::int64_t count, View mask) {
  checks::select_smallest(owner_, score, count, mask);
  const auto result = bytes(mask);
  const std::vector<std::uint8_t> keep = drop_smallest(flattened(floats(score)), count);
  for (std::int64_t row = 0; row < result.rows; ++row)
    for (std::int64_t col = 0; col < result.cols; ++col)
      result.at(row, col) = keep[static_cast<std::size_t>(row * result.cols + col)];
}

void ReferencePrune::select_smallest_per_row(View score, std::span<const std::int64_t> counts, View mask) {
  checks::select_smallest_per_row(owner_, score, counts, mask);
  const auto scores = floats(score);
  const auto result = bytes(mask);
  for (std::int64_t row = 0; row < scores.rows; ++row) {
    const std::vector<float> values(scores.row(row), scores.row(row) + scores.cols);
    const std::vector<std::uint8_t> keep = drop_smallest(values, counts[static_cast<std::size_t>(row)]);
    std::copy(keep.begin(), keep.end(), result.row(row));
  }
}

void ReferencePrune::select_published(View score, std::int64_t index, View mask) {
  checks::select_published(owner_, score, index, mask);
  const auto scores = floats(score);
  const auto result = bytes(mask);
  std::vector<float> sorted = flattened(scores);
  std::sort(sorted.begin(), sorted.end());
  const float threshold = sorted[static_cast<std::size_t>(index)];
  for (std::int64_t row = 0; row < scores.rows; ++row)
    for (std::int64_t col = 0; col < scores.cols; ++col)
      result.at(row, col) = scores.at(row, col) <= threshold ? 0 : 1;
}

namespace {

/// Drops the m - keep smallest of scores[0, m), equal ones by index: mask[i] = 0 or 1.
void select_in_group(const std::vector<float>& scores, int keep, std::uint8_t* mask) {
  const auto m = static_cast<std::int64_t>(scores.size());
  const std::vector<std::uint8_t> kept = drop_smallest(scores, m - keep);
  std::copy(kept.begin(), kept.end(), mask);
}

/// The sweep over one row. `choose(column, row's weights)` runs before each column and may write the row's
/// mask.
template <class Choose>
void sweep_row(std::vector<double>& weights, Matrix<float> factor, const std::uint8_t* mask, Choose choose,
               float* w, float* error) {
  const auto columns = static_cast<std::int64_t>(weights.size());
  for (std::int64_t j = 0; j < columns; ++j) {
    choose(j, weights);
    const double weight = weights[static_cast<std::size_t>(j)];
    const double kept = mask[j] != 0 ? weight : 0.0;
    const double difference = (weight - kept) / static_cast<double>(factor.at(j, j));
    for (std::int64_t k = j + 1; k < columns; ++k)
      weights[static_cast<std::size_t>(k)] -= difference * static_cast<double>(factor.at(j, k));
    w[j] = static_cast<float>(kept);
    error[j] = static_cast<float>(difference);
  }
}

}  // namespace

void ReferencePrune::obs_block(View w, View u, View mask, View error) {
  checks::obs_block(owner_, w, u, mask, error);
  const auto weights = floats(w);
  const auto kept = bytes(mask);
  const auto errors = floats(error);
  for (std::int64_t row = 0; row < weights.rows; ++row) {
    std::vector<double> values(weights.row(row), weights.row(row) + weights.cols);
    sweep_row(
        values, floats(u), kept.row(row), [](std::int64_t, const std::vector<double>&) {}, weights.row(row),
        errors.row(row));
  }
}

void ReferencePrune::obs_block_n_of_m(View w, View u, int keep, int m, View previous_mask, View mask,
                                      View error) {
  checks::obs_block_n_of_m(owner_, w, u, keep, m, previous_mask, mask, error);
  const auto weights = floats(w);
  const auto factor = floats(u);
  const auto kept = bytes(mask);
  const auto errors = floats(error);
  const auto previous = bytes(previous_mask);
  for (std::int64_t row = 0; row < weights.rows; ++row) {
    const auto choose = [&](std::int64_t j, const std::vector<double>& values) {
      if (j % m != 0) return;
      std::vector<float> scores(static_cast<std::size_t>(m));
      for (std::int64_t i = 0; i < m; ++i) {
        const auto weight = static_cast<float>(values[static_cast<std::size_t>(j + i)]);
        const float diagonal = factor.at(j + i, j + i);
        const bool dropped_before = previous.data != nullptr && previous.at(row, j + i) == 0;
        scores[static_cast<std::size_t>(i)] =
            dropped_before ? -1.0F : (weight * weight) / (diagonal * diagonal);
      }
      select_in_group(scores, keep, kept.row(row) + j);
    };
    std::vector<double> values(weights.row(row), weights.row(row) + weights.cols);
    sweep_row(values, factor, kept.row(row), choose, weights.row(row), errors.row(row));
  }
}

void ReferencePrune::select_n_of_m(View score, int keep, int m, View mask) {
  checks::select_n_of_m(owner_, score, keep, m, mask);
  const auto scores = floats(score);
  const auto result = bytes(mask);
  for (std::int64_t row = 0; row < scores.rows; ++row)
    for (std::int64_t first = 0; first < scores.cols; first += m)
      select_in_group({scores.row(row) + first, scores.row(row) + first + m}, keep, result.row(row) + first);
}

void ReferencePrune::apply_mask(View mask, View w) {
  checks::apply_mask(owner_, mask, w);
  const auto kept = bytes(mask);
  const auto weights = floats(w);
  for (std::int64_t row = 0; row < weights.rows; ++row)
    for (std::int64_t col = 0; col < weights.cols; ++col)
      if (kept.at(row, col) == 0) weights.at(row, col) = 0.0F;
}

void ReferencePrune::round_to_dtype(DType dtype, View w) {
  checks::round_to_dtype(owner_, w);
  const auto weights = floats(w);
  for (std::int64_t row = 0; row < weights.rows; ++row)
    for (std::int64_t col = 0; col < weights.cols; ++col)
      weights.at(row, col) = round_to(dtype, weights.at(row, col));
}

void ReferencePrune::start_squares() {
  squares_ = 0.0;
}

double ReferencePrune::squares() {
  return checks::started_squares(squares_);
}

void ReferencePrune::add_squares(View x) {
  checks::add_squares(owner_, x);
  const auto values = floats(x);
  double sum = 0.0;
  for (std::int64_t row = 0; row < values.rows; ++row)
    for (std::int64_t col = 0; col < values.cols; ++col) {
      const auto value = static_cast<double>(values.at(row, col));
      sum += value * value;
    }
  squares_ = squares() + sum;
}

}  // namespace fedspallm::backend::reference
