// SPDX-License-Identifier: Apache-2.0
// Purpose: the op classes of the CUDA backend: cuBLAS and cuSOLVER for products and factorizations, own
// kernels for the rest, all on one stream. An op checks, reserves workspace and launches; it waits only where
// it returns values to the host.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include "engine.hpp"
#include <memory>
#include <mutex>

namespace fedspallm::backend::cuda {

class CudaLinear final : public LinearOps {
 public:
  CudaLinear(const Backend* owner, Engine& engine) : owner_(owner), engine_(engine) {}
  void linear(View x, View w, View bias, View y, bool add) override;
  void subtract_product(View a, View b, View c) override;
  void gram(View x, float scale, View h) override;
  [[nodiscard]] std::optional<std::int64_t> inverse_upper_factor(View h) override;

 private:
  void gram_16(DType type, View x, float scale, View h);

  const Backend* owner_;
  Engine& engine_;
};

class CudaModel final : public ModelOps {
 public:
  CudaModel(const Backend* owner, Engine& engine) : owner_(owner), engine_(engine) {}
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

class CudaPrune final : public PruneOps {
 public:
  CudaPrune(const Backend* owner, Engine& engine)
      : owner_(owner), engine_(engine), squares_memory_(engine.memory) {}
  void saliency(View w, View diag, View score) override;
  void weighted_magnitude(View w, View factor, View score) override;
  void prefer_dropped(View previous_mask, View score) override;
  void select_smallest(View score, std::int64_t count, View mask) override;
  void select_smallest_per_row(View score, std::span<const std::int64_t> counts, View mask) override;
  void select_published(View score, std::int64_t index, View mask) override;
  void obs_block(View w, View u, View mask, View error) override;
  /// @pre also m <= 128
  void obs_block_n_of_m(View w, View u, int keep, int m, View previous_mask, View mask, View error) override;
  void select_n_of_m(View score, int keep, int m, View mask) override;
  void apply_mask(View mask, View w) override;
  void round_to_dtype(DType dtype, View w) override;
  void start_squares() override;
  void add_squares(View x) override;
  [[nodiscard]] double squares() override;

 private:
  void select_index(const View& score, std::int64_t index, bool published, const View& mask);
  void sweep_pieces(const View& w, const View& u, const View& mask, const View& previous, const View& error,
                    int keep, int m);

  const Backend* owner_;
  Engine& engine_;
  Workspace squares_memory_;
  double* squares_ = nullptr;  // in it, once they were started
};

class CudaSparse final : public SparseOps {
 public:
  CudaSparse(const Backend* owner, Engine& engine) : owner_(owner), engine_(engine) {}
  std::int64_t pack(View w, View mask, DType dtype, std::span<std::uint64_t> bits,
                    std::vector<std::byte>& values) override;
  void unpack(std::span<const std::uint64_t> bits, std::span<const std::byte> values, DType dtype,
              View w) override;
  void unpack_mask(std::span<const std::uint64_t> bits, View mask) override;

 private:
  const Backend* owner_;
  Engine& engine_;
};

/// On streams and with memory of its own, so that merging on the root's GPU does not wait for its clients'
/// work, and the other way round.
class CudaUpdates final : public UpdateOps {
 public:
  CudaUpdates(const Backend* owner, Engine& engine);
  ~CudaUpdates() override;
  [[nodiscard]] std::shared_ptr<std::byte> allocate(std::int64_t bytes) override;
  void write(std::span<const std::byte> host, std::byte* device) override;
  void read(const std::byte* device, std::span<std::byte> host) override;
  Packed pack(View w, View mask, DType dtype, const std::function<Place(std::int64_t kept)>& place) override;
  void clear(std::int64_t weights, std::byte* tiles) override;
  Added add(const Update& update, int q, std::byte* tiles) override;
  [[nodiscard]] Finished finish(const Finish& how, std::byte* tiles) override;

  [[nodiscard]] std::int64_t allocated_bytes() const { return memory_.allocated_bytes(); }
  /// An upper bound beside the engine's peak, which may be at another time.
  [[nodiscard]] std::int64_t peak_bytes() const { return memory_.peak_bytes(); }

 private:
  [[nodiscard]] cudaStream_t stream();

  const Backend* owner_;
  Engine& engine_;
  Stream allocations_;  // nothing else is on it, so that what was allocated is there at once
  Stream stream_;
  DeviceMemory memory_;
  std::mutex mutex_;  // of what follows
  Staging staging_;
  Workspace scratch_;
};

}  // namespace fedspallm::backend::cuda
