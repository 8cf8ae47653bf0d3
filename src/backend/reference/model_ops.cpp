// SPDX-License-Identifier: Apache-2.0
#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"
#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace fedspallm::backend::reference {

namespace {

/// One row: y = (x - mean) / sqrt(variance + epsilon) * weight + bias; the rms norm takes mean = 0 and has no
/// bias.
void norm_row(Norm kind, const float* x, std::int64_t cols, const float* weight, const float* bias,
              double epsilon, float* y) {
  double mean = 0.0;
  if (kind == Norm::layer) {
    for (std::int64_t j = 0; j < cols; ++j) mean += static_cast<double>(x[j]);
    mean /= static_cast<double>(cols);
  }
  double squares = 0.0;
  for (std::int64_t j = 0; j < cols; ++j) {
    const double centred = static_cast<double>(x[j]) - mean;
    squares += centred * centred;
  }
  const double factor = 1.0 / std::sqrt(squares / static_cast<double>(cols) + epsilon);
  for (std::int64_t j = 0; j < cols; ++j) {
    double value = (static_cast<double>(x[j]) - mean) * factor * static_cast<double>(weight[j]);
    if (bias != nullptr) value += static_cast<double>(bias[j]);
    y[j] = static_cast<float>(value);
  }
}

}  // namespace

void ReferenceModel::norm(Norm kind, View x, View weight, View bias, float epsilon, View y) {
  checks::norm(owner_, kind, x, weight, bias, y);
  const auto input = floats(x);
  const auto output = floats(y);
  const float* offset = bias.empty() ? nullptr : Access::f32(bias);
  for (std::int64_t row = 0; row < input.rows; ++row)
    norm_row(kind, input.row(row), input.cols, Access::f32(weight), offset, static_cast<double>(epsilon),
             output.row(row));
}

void ReferenceModel::rope(View x, View cosine, View sine, std::int64_t heads) {
  checks::rope(owner_, x, cosine, sine, heads);
  const auto values = floats(x);
  const auto cosines = floats(cosine);
  const auto sines = floats(sine);
  const std::int64_t half = cosines.cols;
  for (std::int64_t row = 0; row < values.rows; ++row) {
    const std::int64_t position = row % cosines.rows;
    for (std::int64_t head = 0; head < heads; ++head) {
      float* first = values.row(row) + head * 2 * half;
      float* second = first + half;
      for (std::int64_t i = 0; i < half; ++i) {
        const auto c = static_cast<double>(cosines.at(position, i));
        const auto s = static_cast<double>(sines.at(position, i));
        const auto a = static_cast<double>(first[i]);
        const auto b = static_cast<double>(second[i]);
        first[i] = static_cast<float>(a * c - b * s);
        second[i] = static_cast<float>(b * c + a * s);
      }
    }
  }
}

namespace {

/// Attention of one query over the keys [first_key, last_key] of its sequence and head.
/// k and v point to the head's columns of the sequence's first row.
void attend(Products products, const float* query, const float* k, const float* v, std::int64_t stride_k,
            std::int64_t stride_v, std::int64_t first_key, std::int64_t last_key, const AttentionShape& shape,
            float* out) {
  std::vector<double> weights(static_cast<std::size_t>(last_key - first_key + 1));
  for (std::int64_t key = first_key; key <= last_key; ++key) {
    double dot = 0.0;
    for (std::int64_t d = 0; d < shape.head_dim; ++d)
      dot += operand(products, query[d]) * operand(products, k[key * stride_k + d]);
    weights[static_cast<std::size_t>(key - first_key)] = dot * static_cast<double>(shape.scale);
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  double total = 0.0;
  for (double& weight : weights) {
    weight = std::exp(weight - largest);
    total += weight;
  }
  std::vector<double> sum(static_cast<std::size_t>(shape.head_dim), 0.0);
  for (std::int64_t key = first_key; key <= last_key; ++key) {
    const double weight = operand(products, weights[static_cast<std::size_t>(key - first_key)] / total);
    for (std::int64_t d = 0; d < shape.head_dim; ++d)
      sum[static_cast<std::size_t>(d)] += weight * operand(products, v[key * stride_v + d]);
  }
  for (std::int64_t d = 0; d < shape.head_dim; ++d)
    out[d] = static_cast<float>(sum[static_cast<std::size_t>(d)]);
}

}  // namespace

void ReferenceModel::causal_attention(View q, View k, View v, const AttentionShape& shape, View out) {
  checks::causal_attention(owner_, q, k, v, shape, out);
  const auto queries = floats(q);
  const auto keys = floats(k);
  const auto values = floats(v);
  const auto output = floats(out);
  const std::int64_t queries_per_key = shape.heads / shape.kv_heads;
  for (std::int64_t row = 0; row < queries.rows; ++row) {
    const std::int64_t position = row % shape.sequence_length;
    const std::int64_t first_row = row - position;
    const std::int64_t first_key =
        shape.window > 0 ? std::max<std::int64_t>(0, position - shape.window + 1) : 0;
    for (std::int64_t head = 0; head < shape.heads; ++head) {
      const std::int64_t kv_column = head / queries_per_key * shape.head_dim;
      attend(owner_->products(), queries.row(row) + head * shape.head_dim, keys.row(first_row) + kv_column,
             values.row(first_row) + kv_column, keys.stride, values.stride, first_key, position, shape,
             output.row(row) + head * shape.head_dim);
    }
  }
}

void ReferenceModel::silu_multiply(View gate, View up) {
  checks::silu_multiply(owner_, gate, up);
  const auto left = floats(gate);
  const auto right = floats(up);
  for (std::int64_t row = 0; row < left.rows; ++row) {
    for (std::int64_t col = 0; col < left.cols; ++col) {
      const auto value = static_cast<double>(left.at(row, col));
      left.at(row, col) =
          static_cast<float>(value / (1.0 + std::exp(-value)) * static_cast<double>(right.at(row, col)));
    }
  }
}

void ReferenceModel::activate(Activation kind, View x) {
  checks::activate(owner_, x);
  const auto values = floats(x);
  for (std::int64_t row = 0; row < values.rows; ++row) {
    for (std::int64_t col = 0; col < values.cols; ++col) {
      const auto value = static_cast<double>(values.at(row, col));
      const double result = kind == Activation::relu
                                ? (value < 0.0 ? 0.0 : value)  // NaN stays NaN
                                : 0.5 * value * (1.0 + std::erf(value / std::numbers::sqrt2));
      values.at(row, col) = static_cast<float>(result);
    }
  }
}

void ReferenceModel::add(View x, View y) {
  checks::add(owner_, x, y);
  const auto from = floats(x);
  const auto to = floats(y);
  for (std::int64_t row = 0; row < to.rows; ++row)
    for (std::int64_t col = 0; col < to.cols; ++col) to.at(row, col) += from.at(row, col);
}

void ReferenceModel::token_nll(View logits, std::span<const std::int32_t> targets, std::span<double> nll) {
  checks::token_nll(owner_, logits, targets, nll);
  const auto values = floats(logits);
  for (std::int64_t row = 0; row < values.rows; ++row) {
    const auto index = static_cast<std::size_t>(row);
    nll[index] = 0.0;
    if (targets[index] < 0) continue;
    const float* first = values.row(row);
    const auto largest = static_cast<double>(*std::max_element(first, first + values.cols));
    double total = 0.0;
    for (std::int64_t col = 0; col < values.cols; ++col)
      total += std::exp(static_cast<double>(first[col]) - largest);
    nll[index] = largest + std::log(total) - static_cast<double>(first[targets[index]]);
  }
}

std::optional<std::int64_t> ReferenceModel::first_non_finite(View x) {
  checks::first_non_finite(owner_, x);
  const auto values = floats(x);
  for (std::int64_t row = 0; row < values.rows; ++row)
    for (std::int64_t col = 0; col < values.cols; ++col)
      if (!std::isfinite(values.at(row, col))) return row * values.cols + col;
  return std::nullopt;
}

}  // namespace fedspallm::backend::reference
