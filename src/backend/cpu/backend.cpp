// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/backend/backend.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/format.h>

#include "../access.hpp"
#include "../checks.hpp"
#include "../host_csr.hpp"
#include "../host_updates.hpp"
#include "ops.hpp"

namespace fedspallm::backend {

namespace cpu {
namespace {

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, Isa isa, Products products)
      : Backend(products),
        engine_(threads, isa),
        linear_(this, engine_),
        model_(this, engine_),
        prune_(this, engine_),
        sparse_(this, engine_) {}

  [[nodiscard]] std::string name() const override { return "cpu"; }
  [[nodiscard]] std::string kernel_set() const override {
    const std::string set = fmt::format("cpu/{}/openblas-{}", name_of(engine_.isa), engine_.blas.core());
    return products() == Products::f32 ? set : fmt::format("{}/{}", set, backend::name_of(products()));
  }

  void copy_in(std::span<const float> source, View destination) override {
    checks::host_copy(this, destination, Element::f32, source.size());
    copy_elements(host(source.data(), destination), floats(destination));
  }
  void copy_in(std::span<const std::uint8_t> source, View destination) override {
    checks::host_copy(this, destination, Element::u8, source.size());
    copy_elements(host(source.data(), destination), bytes(destination));
  }
  void copy_in_widened(DType dtype, std::span<const std::byte> source, View destination) override;
  void copy_out(View source, std::span<float> destination) override {
    checks::host_copy(this, source, Element::f32, destination.size());
    copy_elements(as_const(floats(source)), host(destination.data(), source));
  }
  void copy_out(View source, std::span<std::uint8_t> destination) override {
    checks::host_copy(this, source, Element::u8, destination.size());
    copy_elements(as_const(bytes(source)), host(destination.data(), source));
  }
  void copy(View source, View destination) override {
    checks::device_copy(this, source, destination);
    if (source.element() == Element::f32) {
      copy_elements(as_const(floats(source)), floats(destination));
    } else {
      copy_elements(as_const(bytes(source)), bytes(destination));
    }
  }
  void fill(View destination, float value) override {
    checks::fill(this, destination, value);
    if (destination.element() == Element::f32) {
      fill_elements(floats(destination), value);
    } else {
      fill_elements(bytes(destination), static_cast<std::uint8_t>(value));
    }
  }
  void synchronize() override {}
  [[nodiscard]] std::int64_t allocated_bytes() const override { return engine_.memory.allocated_bytes(); }
  [[nodiscard]] std::int64_t peak_bytes() const override { return engine_.memory.peak_bytes(); }

  [[nodiscard]] LinearOps& linear() override { return linear_; }
  [[nodiscard]] ModelOps& model() override { return model_; }
  [[nodiscard]] PruneOps& prune() override { return prune_; }
  [[nodiscard]] SparseOps& sparse() override { return sparse_; }
  [[nodiscard]] UpdateOps& updates() override { return updates_; }
  [[nodiscard]] CsrOps& csr() override { return csr_; }

 protected:
  void* allocate_bytes(std::size_t bytes) override { return engine_.memory.allocate(bytes); }
  void free_bytes(void* data) noexcept override { engine_.memory.release(data); }

 private:
  template <class T>
  static Matrix<T> host(T* data, const View& like) {
    return {data, like.rows(), like.cols(), like.cols()};
  }
  template <class T>
  static Matrix<const T> as_const(Matrix<T> matrix) {
    return {matrix.data, matrix.rows, matrix.cols, matrix.stride};
  }
  template <class T>
  void copy_elements(Matrix<const T> from, Matrix<T> to) {
    engine_.for_spans(to.rows, to.cols, from.contiguous() && to.contiguous(),
                      [&](std::int64_t row, std::int64_t column, std::int64_t count) {
                        std::copy_n(from.row(row) + column, count, to.row(row) + column);
                      });
  }
  template <class T>
  void fill_elements(Matrix<T> to, T value) {
    engine_.for_spans(to.rows, to.cols, to.contiguous(),
                      [&](std::int64_t row, std::int64_t column, std::int64_t count) {
                        std::fill_n(to.row(row) + column, count, value);
                      });
  }

  Engine engine_;
  CpuLinear linear_;
  CpuModel model_;
  CpuPrune prune_;
  CpuSparse sparse_;
  HostUpdates updates_{sparse_};
  HostCsr csr_{this, [this](std::int64_t units, const std::function<void(std::int64_t)>& body) {
                 engine_.run(units, [&](std::int64_t unit, int) { body(unit); });
               }};
};

void CpuBackend::copy_in_widened(DType dtype, std::span<const std::byte> source, View destination) {
  checks::widened_copy(this, destination, dtype, source.size());
  const auto to = floats(destination);
  const auto width = static_cast<std::int64_t>(size_of(dtype));
  const SparseKernels& kernels = engine_.kernels.sparse;
  engine_.for_spans(to.rows, to.cols, to.contiguous(),
                    [&](std::int64_t row, std::int64_t column, std::int64_t count) {
                      const std::byte* from = source.data() + (row * to.cols + column) * width;
                      float* out = to.row(row) + column;
                      switch (dtype) {
                        case DType::f32:
                          return widen(dtype, from, out, static_cast<std::size_t>(count));
                        case DType::bf16:
                          return kernels.widen_bf16(from, count, out);
                        case DType::f16:
                          return kernels.widen_f16(from, count, out);
                      }
                    });
}

}  // namespace
}  // namespace cpu

std::string lacks_for(Products products, Isa isa) {
  switch (products) {
    case Products::f32:
      return "";
    case Products::bf16:
      if (isa != Isa::avx512) return fmt::format("the kernels {} have none (avx512 have)", name_of(isa));
      return supports_bf16_products() ? "" : "this CPU has no AVX512-BF16";
    case Products::f16:
      return "f16 is for GPUs (CPUs with AVX512-BF16 have bf16)";
  }
  return "unknown products";
}

std::unique_ptr<Backend> make_cpu_backend(int threads, std::optional<Isa> isa, Products products) {
  require(threads >= 1, fmt::format("make_cpu_backend: threads >= 1, found {}", threads));
  const Isa set = isa.value_or(select_isa());
  const std::string lacks = lacks_for(products, set);
  check<ConfigError>(lacks.empty(), fmt::format("products in {} on CPUs: {}", name_of(products), lacks));
  return std::make_unique<cpu::CpuBackend>(threads, set, products);
}

}  // namespace fedspallm::backend
