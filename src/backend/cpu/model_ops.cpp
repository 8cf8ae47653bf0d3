// SPDX-License-Identifier: Apache-2.0
#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"
#include <atomic>
#include <cmath>
#include <limits>

namespace fedspallm::backend::cpu {

void CpuModel::norm(Norm kind, View x, View weight, View bias, float epsilon, View y) {
  checks::norm(owner_, kind, x, weight, bias, y);
  const auto input = floats(x);
  const auto output = floats(y);
  if (input.size() == 0) return;
  const float* factors = Access::f32(weight);
  const float* offsets = bias.empty() ? nullptr : Access::f32(bias);
  const ModelKernels& kernels = engine_.kernels.model;
  engine_.for_rows(input.rows, input.cols, [&](std::int64_t row, int) {
    if (kind == Norm::rms) {
      kernels.rms_norm(input.row(row), factors, epsilon, input.cols, output.row(row));
    } else {
      kernels.layer_norm(input.row(row), factors, offsets, epsilon, input.cols, output.row(row));
    }
  });
}

void CpuModel::rope(View x, View cosine, View sine, std::int64_t heads) {
  checks::rope(owner_, x, cosine, sine, heads);
  const auto values = floats(x);
  const auto cosines = floats(cosine);
  const auto sines = floats(sine);
  if (values.size() == 0) return;
  engine_.for_rows(values.rows, values.cols, [&](std::int64_t row, int) {
    const std::int64_t position = row % cosines.rows;
    engine_.kernels.model.rope(values.row(row), cosines.row(position), sines.row(position), heads,
                               cosines.cols);
  });
}

void CpuModel::causal_attention(View q, View k, View v, const AttentionShape& shape, View out) {
  checks::causal_attention(owner_, q, k, v, shape, out);
  const auto queries = floats(q);
  const auto keys = floats(k);
  const auto values = floats(v);
  const auto output = floats(out);
  if (queries.size() == 0) return;
  const ProductKernels products = engine_.product_kernels(owner_->products());
  const AttentionKernels& kernels = products.attention;
  const std::int64_t length = shape.sequence_length;
  const std::int64_t packed = kernels.packed_floats(length, shape.head_dim);
  const std::int64_t heads_of_key = shape.heads / shape.kv_heads;
  const std::int64_t pairs = queries.rows / length * shape.kv_heads;  // of a sequence and a kv head
  // A unit packs its keys and values itself. Few pairs: pieces of the rows as well, each with the packing
  // again.
  const Cut pieces =
      even_cut(length, pairs >= 32 ? length : std::max<std::int64_t>(64, length * pairs / 32), 16);
  engine_.reserve_per_worker(2 * packed + kernels.scratch_floats(length, shape.head_dim));
  engine_.run(pairs * pieces.count(), [&](std::int64_t unit, int worker) {
    const Range rows = pieces[pieces.count() - 1 - unit / pairs];  // the last rows have the most keys: first
    const std::int64_t first_row = unit % pairs / shape.kv_heads * length;
    const std::int64_t kv_head = unit % pairs % shape.kv_heads;
    float* packed_keys = engine_.of_worker(worker);
    float* packed_values = packed_keys + packed;
    products.linear.pack_rows(keys.row(first_row) + kv_head * shape.head_dim, keys.stride, rows.last,
                              shape.head_dim, packed_keys);
    kernels.pack_values(values.row(first_row) + kv_head * shape.head_dim, values.stride, rows.last,
                        shape.head_dim, packed_values);
    const AttentionHead head{packed_keys,    packed_values, rows.last,
                             shape.head_dim, shape.scale,   shape.window};
    for (std::int64_t i = 0; i < heads_of_key; ++i) {
      const std::int64_t column = (kv_head * heads_of_key + i) * shape.head_dim;
      kernels.rows(head,
                   {queries.row(first_row) + column, output.row(first_row) + column, queries.stride,
                    output.stride, rows.first, rows.last},
                   packed_values + packed);
    }
  });
}

void CpuModel::silu_multiply(View gate, View up) {
  checks::silu_multiply(owner_, gate, up);
  const auto left = floats(gate);
  const auto right = floats(up);
  engine_.for_spans(left.rows, left.cols, left.contiguous() && right.contiguous(),
                    [&](std::int64_t row, std::int64_t column, std::int64_t count) {
                      engine_.kernels.model.silu_multiply(left.row(row) + column, right.row(row) + column,
                                                          count);
                    });
}

void CpuModel::activate(Activation kind, View x) {
  checks::activate(owner_, x);
  const auto values = floats(x);
  const auto kernel = kind == Activation::relu ? engine_.kernels.model.relu : engine_.kernels.model.gelu;
  engine_.for_spans(values.rows, values.cols, values.contiguous(),
                    [&](std::int64_t row, std::int64_t column, std::int64_t count) {
                      kernel(values.row(row) + column, count);
                    });
}

void CpuModel::add(View x, View y) {
  checks::add(owner_, x, y);
  const auto from = floats(x);
  const auto to = floats(y);
  engine_.for_spans(to.rows, to.cols, from.contiguous() && to.contiguous(),
                    [&](std::int64_t row, std::int64_t column, std::int64_t count) {
                      engine_.kernels.model.add(from.row(row) + column, to.row(row) + column, count);
                    });
}

void CpuModel::token_nll(View logits, std::span<const std::int32_t> targets, std::span<double> nll) {
  checks::token_nll(owner_, logits, targets, nll);
  const auto values = floats(logits);
  engine_.for_rows(values.rows, values.cols, [&](std::int64_t row, int) {
    const auto index = static_cast<std::size_t>(row);
    const std::int32_t target = targets[index];
    nll[index] = target < 0 ? 0.0
                            : engine_.kernels.model.log_sum_exp(values.row(row), values.cols) -
                                  static_cast<double>(values.at(row, target));
  });
}

std::optional<std::int64_t> CpuModel::first_non_finite(View x) {
  checks::first_non_finite(owner_, x);
  const auto values = floats(x);
  constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max();
  std::atomic<std::int64_t> first{none};
  engine_.for_spans(values.rows, values.cols, values.contiguous(),
                    [&](std::int64_t row, std::int64_t column, std::int64_t count) {
                      if (row * values.cols + column > first.load(std::memory_order_relaxed)) return;
                      const std::int64_t found =
                          engine_.kernels.model.first_non_finite(values.row(row) + column, count);
                      if (found < 0) return;
                      const std::int64_t index = row * values.cols + column + found;
                      std::int64_t known = first.load();
                      while (index < known && !first.compare_exchange_weak(known, index)) {
                      }
                    });
  return first.load() == none ? std::nullopt : std::optional<std::int64_t>(first.load());
}

}  // namespace fedspallm::backend::cpu
