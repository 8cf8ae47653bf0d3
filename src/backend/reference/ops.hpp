// SPDX-License-Identifier: Apache-2.0
// Purpose: the op classes of the reference backend: slow, plain, one thread, sums in double. They are the
// meaning of each op. Non-goals: speed, blocking, workspaces.
#pragma once

#include "fedspallm/backend/backend.hpp"

namespace fedspallm::backend::reference {

/// A number as a product of activations takes it.
[[nodiscard]] inline double operand(Products products, double value) {
  switch (products) {
    case Products::f32:
      break;
    case Products::f16:
      return static_cast<double>(round_to(DType::f16, static_cast<float>(value)));
    case Products::bf16:
      return static_cast<double>(round_to(DType::bf16, static_cast<float>(value)));
  }
  return value;
}
[[nodiscard]] inline double operand(Products products, float value) {
  return operand(products, static_cast<double>(value));
}

class ReferenceLinear final : public LinearOps {
 public:
  explicit ReferenceLinear(const Backend* owner) : owner_(owner) {}
  void linear(View x, View w, View bias, View y, bool add) override;
  void subtract_product(View a, View b, View c) override;
  void gram(View x, float scale, View h) override;
  [[nodiscard]] std::optional<std::int64_t> inverse_upper_factor(View h) override;

 private:
  const Backend* owner_;
};

class ReferenceModel final : public ModelOps {
 public:
  explicit ReferenceModel(const Backend* owner) : owner_(owner) {}
  void norm(Norm kind, View x, View weight, View bias, float epsilon, View y) override;
  void rope(View x, View cosine, View sine, std::int64_t heads) override;
  void causal_attention(View q, View k, View v, const AttentionShape& shape, View out) override;
  void silu_multiply(View gate, View up) override;
  void activate(Activation kind, View x) override;
  void add(View x, View y) override;
  void token_nll(View logits, std::span<const std::int32_t> targets, std::span<double> nll) override;
  [[nodiscard]] std::optional<std::int64_t> first_non_finite(View x) override;

 private:
  const Backend* owner_;
};

class ReferencePrune final : public PruneOps {
 public:
  explicit ReferencePrune(const Backend* owner) : owner_(owner) {}
  void saliency(View w, View diag, View score) override;
  void weighted_magnitude(View w, View factor, View score) override;
  void prefer_dropped(View previous_mask, View score) override;
  void select_smallest(View score, std::int64_t count, View mask) override;
  void select_smallest_per_row(View score, std::span<const std::int64_t> counts, View mask) override;
  void select_published(View score, std::int64_t index, View mask) override;
  void obs_block(View w, View u, View mask, View error) override;
  void obs_block_n_of_m(View w, View u, int keep, int m, View previous_mask, View mask, View error) override;
  void select_n_of_m(View score, int keep, int m, View mask) override;
  void apply_mask(View mask, View w) override;
  void round_to_dtype(DType dtype, View w) override;
  void start_squares() override;
  void add_squares(View x) override;
  [[nodiscard]] double squares() override;

 private:
  const Backend* owner_;
  std::optional<double> squares_;
};

class ReferenceSparse final : public SparseOps {
 public:
  explicit ReferenceSparse(const Backend* owner) : owner_(owner) {}
  std::int64_t pack(View w, View mask, DType dtype, std::span<std::uint64_t> bits,
                    std::vector<std::byte>& values) override;
  void unpack(std::span<const std::uint64_t> bits, std::span<const std::byte> values, DType dtype,
              View w) override;
  void unpack_mask(std::span<const std::uint64_t> bits, View mask) override;

 private:
  const Backend* owner_;
};

}  // namespace fedspallm::backend::reference
