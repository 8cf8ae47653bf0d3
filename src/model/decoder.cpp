// SPDX-License-Identifier: Apache-2.0
// One decoder block: its weights and its forward pass in pieces.
#include "fedspallm/model/decoder.hpp"

#include "fedspallm/base/error.hpp"

#include "norms.hpp"
#include "tensor_loading.hpp"
#include <algorithm>
#include <cmath>

namespace fedspallm::model {

using backend::Backend;
using backend::Tensor;
using backend::View;

BlockWeights load_block(const ModelDirectory& model, std::int64_t block, Backend& backend) {
  const Architecture& architecture = model.architecture();
  require(0 <= block && block < architecture.blocks, "0 <= block < blocks");
  const std::string prefix = fmt::format("{}{}.", architecture.block_prefix, block);
  BlockWeights weights;
  weights.block = block;
  for (const MatrixShape& matrix : architecture.matrices) {
    weights.matrices.push_back(load_tensor(model, prefix + matrix.suffix + ".weight", backend));
    weights.biases.push_back(matrix.bias ? load_tensor(model, prefix + matrix.suffix + ".bias", backend)
                                         : Tensor());
  }
  NormTensors norm = load_norm(model, prefix + architecture.attention_norm_suffix, backend);
  weights.attention_norm = std::move(norm.weight);
  weights.attention_norm_bias = std::move(norm.bias);
  norm = load_norm(model, prefix + architecture.mlp_norm_suffix, backend);
  weights.mlp_norm = std::move(norm.weight);
  weights.mlp_norm_bias = std::move(norm.bias);
  if (architecture.head_norms) {
    weights.query_norm = load_tensor(model, prefix + architecture.query_norm_suffix + ".weight", backend);
    weights.key_norm = load_tensor(model, prefix + architecture.key_norm_suffix + ".weight", backend);
  }
  return weights;
}

void prefetch_block(const ModelDirectory& model, std::int64_t block, Backend& backend) {
  if (block < 0 || block >= model.architecture().blocks) return;
  std::vector<std::span<const std::byte>> sources;
  for (std::size_t matrix = 0; matrix < model.architecture().matrices.size(); ++matrix)
    sources.push_back(model.tensor(model.matrix_name(block, matrix)).bytes);
  backend.prefetch(sources);
}

std::size_t make_sparse(Backend& backend, double least_sparsity, BlockWeights& weights) {
  std::size_t count = 0;
  weights.sparse.resize(weights.matrices.size());
  for (std::size_t i = 0; i < weights.matrices.size(); ++i) {
    auto matrix = backend.csr().compress(weights.matrices[i]);
    if (matrix->sparsity() < least_sparsity) continue;
    weights.sparse[i] = std::move(matrix);
    weights.matrices[i] = Tensor();
    ++count;
  }
  return count;
}

namespace {

/// Index in architecture.matrices.
std::size_t index_of(const Architecture& architecture, MatrixRole role) {
  for (std::size_t i = 0; i < architecture.matrices.size(); ++i)
    if (architecture.matrices[i].role == role) return i;
  throw LogicError("the architecture has no matrix of this role");
}

}  // namespace

std::int64_t rows_of_batch(std::int64_t sequence_length, std::int64_t tokens) {
  require(sequence_length >= 1, "rows_of_batch: sequence_length >= 1");
  return std::max<std::int64_t>(1, tokens / sequence_length) * sequence_length;
}

BlockForward::BlockForward(Backend& backend, const Architecture& architecture, std::int64_t sequence_length,
                           std::int64_t max_rows)
    : backend_(backend), architecture_(architecture), sequence_length_(sequence_length), max_rows_(max_rows) {
  require(sequence_length > 0 && max_rows > 0 && max_rows % sequence_length == 0,
          "max_rows is a positive multiple of sequence_length");
  query_ = backend.allocate(max_rows, architecture.heads * architecture.head_dim);
  key_ = backend.allocate(max_rows, architecture.kv_heads * architecture.head_dim);
  value_ = backend.allocate(max_rows, architecture.kv_heads * architecture.head_dim);
  if (architecture.mlp == MlpKind::gated_silu)
    up_ = backend.allocate(max_rows, architecture.intermediate_size);
  if (architecture.rope.kind == RopeKind::none) return;
  const RopeTables tables = rope_tables(architecture, sequence_length);
  cosine_ = backend.allocate(sequence_length, architecture.head_dim / 2);
  sine_ = backend.allocate(sequence_length, architecture.head_dim / 2);
  backend.copy_in(std::span<const float>(tables.cosine), cosine_);
  backend.copy_in(std::span<const float>(tables.sine), sine_);
}

void BlockForward::require_rows(std::int64_t rows) const {
  require(rows > 0 && rows <= max_rows_ && rows % sequence_length_ == 0,
          "rows are whole sequences, at most max_rows");
}

void BlockForward::apply(const BlockWeights& weights, MatrixRole role, View x, View y, bool add) {
  const std::size_t index = index_of(architecture_, role);
  if (index < weights.sparse.size() && weights.sparse[index] != nullptr) {
    backend_.csr().linear(x, *weights.sparse[index], weights.biases[index], y, add);
  } else {
    backend_.linear().linear(x, weights.matrices[index], weights.biases[index], y, add);
  }
}

void BlockForward::norm_heads(View x, std::int64_t heads, const Tensor& weight) {
  const View per_head = x.reshaped(x.rows() * heads, architecture_.head_dim);
  backend_.model().norm(backend::Norm::rms, per_head, weight, View(),
                        static_cast<float>(architecture_.norm_epsilon), per_head);
}

void BlockForward::attention_input(const BlockWeights& weights, View x, View h) {
  require_rows(x.rows());
  if (architecture_.norm_before) {
    apply_norm(backend_, architecture_, x, weights.attention_norm, weights.attention_norm_bias, h);
  } else {
    backend_.copy(x, h);
  }
}

void BlockForward::attention(const BlockWeights& weights, View h, View a) {
  require_rows(h.rows());
  const View query = query_.view().row_range(0, h.rows());
  const View key = key_.view().row_range(0, h.rows());
  const View value = value_.view().row_range(0, h.rows());
  apply(weights, MatrixRole::query, h, query, false);
  apply(weights, MatrixRole::key, h, key, false);
  apply(weights, MatrixRole::value, h, value, false);
  if (architecture_.head_norms) {
    norm_heads(query, architecture_.heads, weights.query_norm);
    norm_heads(key, architecture_.kv_heads, weights.key_norm);
  }
  if (architecture_.rope.kind != RopeKind::none) {
    backend_.model().rope(query, cosine_, sine_, architecture_.heads);
    backend_.model().rope(key, cosine_, sine_, architecture_.kv_heads);
  }
  const backend::AttentionShape shape{
      .sequence_length = sequence_length_,
      .heads = architecture_.heads,
      .kv_heads = architecture_.kv_heads,
      .head_dim = architecture_.head_dim,
      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(architecture_.head_dim))),
      .window = architecture_.window.at(static_cast<std::size_t>(weights.block)),
  };
  backend_.model().causal_attention(query, key, value, shape, a);
}

void BlockForward::attention_output(const BlockWeights& weights, View a, View x) {
  require_rows(x.rows());
  apply(weights, MatrixRole::attention_output, a, x, true);
  if (!architecture_.norm_before)
    apply_norm(backend_, architecture_, x, weights.attention_norm, weights.attention_norm_bias, x);
}

void BlockForward::mlp_input(const BlockWeights& weights, View x, View h) {
  require_rows(x.rows());
  if (architecture_.norm_before) {
    apply_norm(backend_, architecture_, x, weights.mlp_norm, weights.mlp_norm_bias, h);
  } else {
    backend_.copy(x, h);
  }
}

void BlockForward::mlp_hidden(const BlockWeights& weights, View h, View m) {
  require_rows(h.rows());
  if (architecture_.mlp == MlpKind::gated_silu) {
    const View up = up_.view().row_range(0, h.rows());
    apply(weights, MatrixRole::gate, h, m, false);
    apply(weights, MatrixRole::up, h, up, false);
    backend_.model().silu_multiply(m, up);
    return;
  }
  apply(weights, MatrixRole::up, h, m, false);
  backend_.model().activate(
      architecture_.mlp == MlpKind::relu ? backend::Activation::relu : backend::Activation::gelu, m);
}

void BlockForward::mlp_output(const BlockWeights& weights, View m, View x) {
  require_rows(x.rows());
  apply(weights, MatrixRole::down, m, x, true);
  if (!architecture_.norm_before)
    apply_norm(backend_, architecture_, x, weights.mlp_norm, weights.mlp_norm_bias, x);
}

void BlockForward::forward(const BlockWeights& weights, View x) {
  require_rows(x.rows());
  if (hidden_.empty()) {  // only forward() needs them: a pruner brings its own
    hidden_ = backend_.allocate(max_rows_, architecture_.hidden_size);
    attention_ = backend_.allocate(max_rows_, architecture_.heads * architecture_.head_dim);
    mlp_ = backend_.allocate(max_rows_, architecture_.intermediate_size);
  }
  const View h = hidden_.view().row_range(0, x.rows());
  const View a = attention_.view().row_range(0, x.rows());
  const View m = mlp_.view().row_range(0, x.rows());
  attention_input(weights, x, h);
  attention(weights, h, a);
  attention_output(weights, a, x);
  mlp_input(weights, x, h);
  mlp_hidden(weights, h, m);
  mlp_output(weights, m, x);
}

}  // namespace fedspallm::model
