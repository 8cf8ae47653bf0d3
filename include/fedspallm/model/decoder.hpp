// SPDX-License-Identifier: Apache-2.0
// Purpose: the forward pass in pieces, one decoder block at a time, on any backend, so that pruning can step
// between the pieces. Computed in fp32, with the products' operands as run.products says. Non-goals:
// generation, KV caches, training.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/model/model_directory.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace fedspallm::model {

/// Weights of one decoder block on a backend. matrices[i] follows architecture.matrices and is owned here so
/// that a pruner can change it in place.
struct BlockWeights {
  std::int64_t block = 0;
  std::vector<backend::Tensor> matrices;  // rows x cols, fp32
  std::vector<backend::Tensor> biases;    // 1 x rows, or empty
  /// Where not null, used in place of matrices[i], which is empty then (make_sparse); may be left empty.
  std::vector<std::unique_ptr<backend::CsrMatrix>> sparse = {};
  // 1 x n, or empty. A norm that the model stores without weight has a weight of ones here.
  backend::Tensor attention_norm, attention_norm_bias, mlp_norm, mlp_norm_bias, query_norm, key_norm;
};

/// Loads and widens block `block`. @throws NumericalError naming the tensor when it holds NaN or infinity
[[nodiscard]] BlockWeights load_block(const ModelDirectory& model, std::int64_t block,
                                      backend::Backend& backend);
/// The backend may bring the block's matrices nearer while others are at work (Backend::prefetch). Nothing
/// where there is no such block.
void prefetch_block(const ModelDirectory& model, std::int64_t block, backend::Backend& backend);

/// Matrices with at least this share of zeros are stored by their non-zeros from here on: for forward passes
/// alone. @return how many
std::size_t make_sparse(backend::Backend& backend, double least_sparsity, BlockWeights& weights);

/// Rows of a batch of whole sequences: not above `tokens` (Backend::rows_per_batch), but at least one
/// sequence. @pre sequence_length >= 1
[[nodiscard]] std::int64_t rows_of_batch(std::int64_t sequence_length, std::int64_t tokens);

/// The pieces of a block for a batch of whole sequences. Rows = tokens. Views passed in belong to `backend`.
class BlockForward {
 public:
  /// @param max_rows  largest number of rows of a batch: the size of the workspace held here.
  /// @pre positive, a multiple of sequence_length. `architecture` outlives this.
  BlockForward(backend::Backend& backend, const Architecture& architecture, std::int64_t sequence_length,
               std::int64_t max_rows);

  /// input of q, k, v:  h = norm(x), or a copy of x for post-LN.  x, h: n x hidden
  void attention_input(const BlockWeights& weights, backend::View x, backend::View h);
  /// input of o: a = attention(q(h), k(h), v(h)).  a: n x (heads * head_dim)
  void attention(const BlockWeights& weights, backend::View h, backend::View a);
  /// x += o(a) (post-LN: then x = norm(x)).
  void attention_output(const BlockWeights& weights, backend::View a, backend::View x);
  /// input of gate, up or fc1: h = norm(x), or a copy of x for post-LN.
  void mlp_input(const BlockWeights& weights, backend::View x, backend::View h);
  /// input of down or fc2.  m: n x intermediate
  void mlp_hidden(const BlockWeights& weights, backend::View h, backend::View m);
  /// x += down(m) (post-LN: then x = norm(x)).
  void mlp_output(const BlockWeights& weights, backend::View m, backend::View x);
  /// All pieces in turn: x = block(x). Takes more workspace at its first call, and keeps it.
  void forward(const BlockWeights& weights, backend::View x);

  [[nodiscard]] std::int64_t max_rows() const { return max_rows_; }

 private:
  void require_rows(std::int64_t rows) const;
  void apply(const BlockWeights& weights, MatrixRole role, backend::View x, backend::View y, bool add);
  void norm_heads(backend::View x, std::int64_t heads, const backend::Tensor& weight);

  backend::Backend& backend_;
  const Architecture& architecture_;
  std::int64_t sequence_length_;
  std::int64_t max_rows_;
  backend::Tensor query_, key_, value_, cosine_, sine_, hidden_, attention_, up_, mlp_;
};

/// Hidden states entering block 0: token embeddings, project_in, positions. x: (tokens.size()) x hidden;
/// whole sequences. @throws ModelError when sequences are longer than a table of learned positions
void embed(const ModelDirectory& model, std::span<const std::int32_t> tokens, std::int64_t sequence_length,
           backend::Backend& backend, backend::View x);

/// Final norm, project_out, head and token negative log-likelihoods. Holds the head's weights on the backend.
class LanguageHead {
 public:
  /// `model` and `backend` outlive this.
  LanguageHead(const ModelDirectory& model, backend::Backend& backend);
  /// nll of tokens[i+1] after position i within each sequence (the last position of a sequence gives 0).
  /// x: n x hidden (not changed); computed in chunks so that no n x vocab matrix is in memory.
  /// @throws NumericalError when one is not finite
  void token_nll(backend::View x, std::span<const std::int32_t> tokens, std::int64_t sequence_length,
                 std::span<double> nll);
  /// logits: n x vocab (tests, small models).
  void logits(backend::View x, backend::View logits);

 private:
  /// At most chunk_rows_ rows.
  void project(backend::View x, backend::View out);

  backend::Backend& backend_;
  const Architecture& architecture_;
  std::int64_t chunk_rows_ = 0;  // by vocabulary size alone
  backend::Tensor norm_, norm_bias_, project_out_, head_, hidden_, projected_, logits_;
};

}  // namespace fedspallm::model
