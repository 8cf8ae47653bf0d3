// SPDX-License-Identifier: Apache-2.0
// Purpose: the op classes of the CPU backend: threads over units, OpenBLAS for products, own kernels for the
// rest.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include "../access.hpp"
#include "engine.hpp"

namespace fedspallm::backend::cpu {

class CpuLinear final : public LinearOps {
 public:
  CpuLinear(const Backend* owner, Engine& engine) : owner_(owner), engine_(engine) {}
  void linear(View x, View w, View bias, View y, bool add) override;
  void subtract_product(View a, View b, View c) override;
  void gram(View x, float scale, View h) override;
  [[nodiscard]] std::optional<std::int64_t> inverse_upper_factor(View h) override;

 private:
  [[nodiscard]] Matrix<const float> words_of_rows(const ProductKernels& kernels, Matrix<float> x, Range rows,
                                                  int worker);
  void packed_linear(Matrix<float> x, Matrix<float> w, const float* bias, Matrix<float> y, bool add);
  void packed_subtract(Matrix<float> a, Matrix<float> b, Matrix<float> c);

  const Backend* owner_;
  Engine& engine_;
};

class CpuModel final : public ModelOps {
 public:
  CpuModel(const Backend* owner, Engine& engine) : owner_(owner), engine_(engine) {}
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
  Engine& engine_;
};

class CpuPrune final : public PruneOps {
 public:
  CpuPrune(const Backend* owner, Engine& engine) : owner_(owner), engine_(engine) {}
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
  void sweep(const View& w, const View& u, const View& mask, const View& previous, const View& error,
             int keep, int m);

  const Backend* owner_;
  Engine& engine_;
  std::optional<double> squares_;
};

class CpuSparse final : public SparseOps {
 public:
  CpuSparse(const Backend* owner, Engine& engine) : owner_(owner), engine_(engine) {}
  std::int64_t pack(View w, View mask, DType dtype, std::span<std::uint64_t> bits,
                    std::vector<std::byte>& values) override;
  void unpack(std::span<const std::uint64_t> bits, std::span<const std::byte> values, DType dtype,
              View w) override;
  void unpack_mask(std::span<const std::uint64_t> bits, View mask) override;

 private:
  const Backend* owner_;
  Engine& engine_;
};

}  // namespace fedspallm::backend::cpu
