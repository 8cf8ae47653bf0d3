// SPDX-License-Identifier: Apache-2.0
#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"
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

namespace {

/// One unit of attention: a block of query rows of one head of one sequence.
struct QueryBlock {
  const float* q;
  const float* k;  // row 0 of the sequence, the head's columns
  const float* v;
  float* out;
  std::int64_t stride_q, stride_k, stride_v, stride_out;
  Range rows;  // positions within the sequence
};

/// scores (rows x keys) = weights of softmax, zero where a key is not seen; scores' rows are not yet divided
/// by their sum.
void softmax_block(const Engine& engine, const AttentionShape& shape, Range rows, std::int64_t first_key,
                   float* scores, std::int64_t stride, float* reciprocals) {
  for (std::int64_t position = rows.first; position < rows.last; ++position) {
    float* row = scores + (position - rows.first) * stride;
    const std::int64_t from =
        shape.window > 0 ? std::max<std::int64_t>(0, position - shape.window + 1) - first_key : 0;
    const std::int64_t to = position + 1 - first_key;
    std::fill(row, row + from, 0.0F);
    reciprocals[position - rows.first] =
        engine.kernels.model.softmax_weights(row + from, shape.scale, to - from);
    std::fill(row + to, row + (rows.last - first_key), 0.0F);
  }
}

void attend(const Engine& engine, const AttentionShape& shape, const QueryBlock& block, float* scores,
            float* reciprocals) {
  const Range rows = block.rows;
  const std::int64_t first_key =
      shape.window > 0 ? std::max<std::int64_t>(0, rows.first - shape.window + 1) : 0;
  const std::int64_t keys = rows.last - first_key;
  engine.blas.gemm(false, true, rows.size(), keys, shape.head_dim, 1.0F, block.q, block.stride_q,
                   block.k + first_key * block.stride_k, block.stride_k, 0.0F, scores, keys);
  softmax_block(engine, shape, rows, first_key, scores, keys, reciprocals);
  engine.blas.gemm(false, false, rows.size(), shape.head_dim, keys, 1.0F, scores, keys,
                   block.v + first_key * block.stride_v, block.stride_v, 0.0F, block.out, block.stride_out);
  for (std::int64_t row = 0; row < rows.size(); ++row)
    engine.kernels.model.multiply(block.out + row * block.stride_out, reciprocals[row], shape.head_dim);
}

}  // namespace

void CpuModel::causal_attention(View q, View k, View v, const AttentionShape& shape, View out) {
  checks::causal_attention(owner_, q, k, v, shape, out);
  const auto queries = floats(q);
  const auto keys = floats(k);
  const auto values = floats(v);
  const auto output = floats(out);
  if (queries.size() == 0) return;
  constexpr std::int64_t query_rows = 128;
  const Cut blocks{shape.sequence_length, query_rows};
  const std::int64_t sequences = queries.rows / shape.sequence_length;
  engine_.reserve_per_worker(query_rows * (shape.sequence_length + 1));
  engine_.run(sequences * shape.heads * blocks.count(), [&](std::int64_t unit, int worker) {
    // Last blocks first: they have the most keys.
    const Range rows = blocks[blocks.count() - 1 - unit / (sequences * shape.heads)];
    const std::int64_t head = unit % (sequences * shape.heads) % shape.heads;
    const std::int64_t first_row = unit % (sequences * shape.heads) / shape.heads * shape.sequence_length;
    const std::int64_t column = head * shape.head_dim;
    const std::int64_t kv_column = head / (shape.heads / shape.kv_heads) * shape.head_dim;
    const QueryBlock block{queries.row(first_row + rows.first) + column,
                           keys.row(first_row) + kv_column,
                           values.row(first_row) + kv_column,
                           output.row(first_row + rows.first) + column,
                           queries.stride,
                           keys.stride,
                           values.stride,
                           output.stride,
                           rows};
    float* reciprocals = engine_.of_worker(worker);
    attend(engine_, shape, block, reciprocals + query_rows, reciprocals);
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
