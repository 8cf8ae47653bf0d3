// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/base/error.hpp"

#include <fmt/format.h>

#include "../checks.hpp"
#include "csr_ops.hpp"
#include "kernels.hpp"
#include "ops.hpp"
#include "prefetch.hpp"

namespace fedspallm::backend {

namespace cuda {
namespace {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const CudaOptions& options)
      : Backend(options.products),
        engine_(options),
        prefetcher_(options.device),
        linear_(this, engine_),
        model_(this, engine_),
        prune_(this, engine_),
        sparse_(this, engine_),
        updates_(this, engine_),
        csr_(this, engine_) {}
  /// What is still queued may read memory of other streams (weights that came ahead), which goes first.
  ~CudaBackend() override { static_cast<void>(cudaStreamSynchronize(engine_.own_stream())); }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  [[nodiscard]] std::string name() const override { return "cuda"; }
  [[nodiscard]] std::string kernel_set() const override {
    return fmt::format("{}/{}", engine_.kernel_set(), backend::name_of(products()));
  }

  void copy_in(std::span<const float> source, View destination) override {
    checks::host_copy(this, destination, Element::f32, source.size());
    upload(source, device_floats(destination));
  }
  void copy_in(std::span<const std::uint8_t> source, View destination) override {
    checks::host_copy(this, destination, Element::u8, source.size());
    upload(source, device_bytes(destination));
  }
  void copy_in_widened(DType dtype, std::span<const std::byte> source, View destination) override;
  void copy_out(View source, std::span<float> destination) override {
    checks::host_copy(this, source, Element::f32, destination.size());
    download(device_floats(source), destination);
  }
  void copy_out(View source, std::span<std::uint8_t> destination) override {
    checks::host_copy(this, source, Element::u8, destination.size());
    download(device_bytes(source), destination);
  }
  void copy(View source, View destination) override {
    checks::device_copy(this, source, destination);
    if (source.element() == Element::f32) {
      copy_elements(engine_.stream(), device_floats(source), device_floats(destination));
    } else {
      copy_elements(engine_.stream(), device_bytes(source), device_bytes(destination));
    }
  }
  void fill(View destination, float value) override {
    checks::fill(this, destination, value);
    if (destination.element() == Element::f32) {
      fill_elements(engine_.stream(), value, device_floats(destination));
    } else {
      fill_elements(engine_.stream(), static_cast<std::uint8_t>(value), device_bytes(destination));
    }
  }
  void synchronize() override { engine_.synchronize(); }
  [[nodiscard]] std::shared_ptr<float> allocate_host(std::int64_t count) override;
  void store(View source, float* host) override;
  void restore(const float* host, View destination) override;
  void prefetch(std::span<const std::span<const std::byte>> sources) override {
    prefetcher_.ask(sources, [this] { engine_.synchronize(); });
  }
  [[nodiscard]] std::int64_t rows_per_batch() const override { return kDeviceRowsPerBatch; }
  [[nodiscard]] std::int64_t allocated_bytes() const override {
    return engine_.memory.allocated_bytes() + updates_.allocated_bytes() + prefetcher_.allocated_bytes();
  }
  [[nodiscard]] std::int64_t peak_bytes() const override {
    return engine_.memory.peak_bytes() + updates_.peak_bytes() + prefetcher_.peak_bytes();
  }

  [[nodiscard]] LinearOps& linear() override { return linear_; }
  [[nodiscard]] ModelOps& model() override { return model_; }
  [[nodiscard]] PruneOps& prune() override { return prune_; }
  [[nodiscard]] SparseOps& sparse() override { return sparse_; }
  [[nodiscard]] UpdateOps& updates() override { return updates_; }
  [[nodiscard]] CsrOps& csr() override { return csr_; }

 protected:
  void* allocate_bytes(std::size_t bytes) override {
    static_cast<void>(engine_.stream());
    return engine_.memory.allocate(bytes);
  }
  void free_bytes(void* data) noexcept override { engine_.memory.release(data); }

 private:
  /// Views with gaps pass through contiguous device memory: one copy over the bus instead of one for each
  /// row.
  template <class T>
  void upload(std::span<const T> source, Strided<T> to) {
    if (source.empty()) return;
    if (to.contiguous()) return engine_.upload(source.data(), to.size(), to.data);
    T* whole = engine_.copies.elements<T>(to.size());
    engine_.upload(source.data(), to.size(), whole);
    copy_elements(engine_.stream(), Strided<const T>(whole, to.rows, to.cols, to.cols), to);
  }
  template <class T>
  void download(Strided<T> from, std::span<T> destination) {
    if (destination.empty()) return;
    const T* whole = from.data;
    if (!from.contiguous()) {
      T* gathered = engine_.copies.elements<T>(from.size());
      copy_elements(engine_.stream(), Strided<const T>(from),
                    Strided<T>(gathered, from.rows, from.cols, from.cols));
      whole = gathered;
    }
    static_cast<void>(engine_.stream());
    engine_.staging.download(whole, destination.size_bytes(), destination.data());
  }

  Engine engine_;
  Prefetcher prefetcher_;
  CudaLinear linear_;
  CudaModel model_;
  CudaPrune prune_;
  CudaSparse sparse_;
  CudaUpdates updates_;
  CudaCsr csr_;
};

std::shared_ptr<float> CudaBackend::allocate_host(std::int64_t count) {
  require(count >= 0, "allocate_host: count >= 0");
  static_cast<void>(engine_.stream());
  const auto owner = std::make_shared<PinnedMemory>(
      make_pinned(static_cast<std::size_t>(std::max<std::int64_t>(1, count)) * sizeof(float)));
  // A copy that is still queued must end before the memory goes.
  return {static_cast<float*>(owner->get()),
          [this, owner](float*) { static_cast<void>(cudaStreamSynchronize(engine_.own_stream())); }};
}

void CudaBackend::store(View source, float* host) {
  require(source.contiguous(), "store: a contiguous view");
  checks::host_copy(this, source, Element::f32, static_cast<std::size_t>(source.size()));
  if (source.empty()) return;
  check_cuda(
      cudaMemcpyAsync(host, Access::f32(source), static_cast<std::size_t>(source.size()) * sizeof(float),
                      cudaMemcpyDeviceToHost, engine_.stream()),
      "cudaMemcpyAsync to the host");
}

void CudaBackend::restore(const float* host, View destination) {
  require(destination.contiguous(), "restore: a contiguous view");
  checks::host_copy(this, destination, Element::f32, static_cast<std::size_t>(destination.size()));
  if (destination.empty()) return;
  check_cuda(cudaMemcpyAsync(Access::f32(destination), host,
                             static_cast<std::size_t>(destination.size()) * sizeof(float),
                             cudaMemcpyHostToDevice, engine_.stream()),
             "cudaMemcpyAsync to the device");
}

/// 16-bit elements cross the bus as they are and are widened on the device, some rows at a time.
void CudaBackend::copy_in_widened(DType dtype, std::span<const std::byte> source, View destination) {
  checks::widened_copy(this, destination, dtype, source.size());
  if (destination.empty()) return;
  if (const std::byte* here = prefetcher_.find(source)) {
    if (dtype == DType::f32) {
      const Strided<const float> from(reinterpret_cast<const float*>(here), destination.rows(),
                                      destination.cols(), destination.cols());
      copy_elements(engine_.stream(), from, device_floats(destination));
    } else {
      widen_elements(engine_.stream(), dtype, reinterpret_cast<const std::uint16_t*>(here),
                     device_floats(destination));
    }
    return;
  }
  if (dtype == DType::f32) {
    const Strided<float> to = device_floats(destination);
    float* whole = to.contiguous() ? to.data : engine_.copies.elements<float>(to.size());
    engine_.upload(source.data(), static_cast<std::int64_t>(source.size()),
                   reinterpret_cast<std::byte*>(whole));
    if (!to.contiguous())
      copy_elements(engine_.stream(), Strided<const float>(whole, to.rows, to.cols, to.cols), to);
    return;
  }
  const std::int64_t step = std::max<std::int64_t>(1, widen_chunk / destination.cols());
  auto* narrow =
      engine_.copies.elements<std::uint16_t>(std::min(step, destination.rows()) * destination.cols());
  for (std::int64_t first = 0; first < destination.rows(); first += step) {
    const View part = destination.row_range(first, std::min(step, destination.rows() - first));
    const auto offset = static_cast<std::size_t>(first * destination.cols()) * size_of(dtype);
    engine_.upload(source.data() + offset, 2 * part.size(), reinterpret_cast<std::byte*>(narrow));
    widen_elements(engine_.stream(), dtype, narrow, device_floats(part));
  }
}

}  // namespace
}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  return std::make_unique<cuda::CudaBackend>(options);
}

}  // namespace fedspallm::backend
