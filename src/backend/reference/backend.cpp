// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/backend/backend.hpp"

#include <fmt/format.h>

#include "../access.hpp"
#include "../checks.hpp"
#include "../host_csr.hpp"
#include "../host_memory.hpp"
#include "../host_updates.hpp"
#include "ops.hpp"
#include <cstring>

namespace fedspallm::backend {

namespace reference {
namespace {

class ReferenceBackend final : public Backend {
 public:
  explicit ReferenceBackend(Products products)
      : Backend(products), linear_(this), model_(this), prune_(this), sparse_(this) {}

  [[nodiscard]] std::string name() const override { return "reference"; }
  [[nodiscard]] std::string kernel_set() const override {
    return products() == Products::f32 ? "reference"
                                       : fmt::format("reference/{}", backend::name_of(products()));
  }

  void copy_in(std::span<const float> source, View destination) override {
    checks::host_copy(this, destination, Element::f32, source.size());
    rows_in(source.data(), floats(destination));
  }
  void copy_in(std::span<const std::uint8_t> source, View destination) override {
    checks::host_copy(this, destination, Element::u8, source.size());
    rows_in(source.data(), bytes(destination));
  }
  void copy_in_widened(DType dtype, std::span<const std::byte> source, View destination) override {
    checks::widened_copy(this, destination, dtype, source.size());
    const auto to = floats(destination);
    const auto cols = static_cast<std::size_t>(to.cols);
    for (std::int64_t row = 0; row < to.rows; ++row)
      widen(dtype, source.data() + static_cast<std::size_t>(row) * cols * size_of(dtype), to.row(row), cols);
  }
  void copy_out(View source, std::span<float> destination) override {
    checks::host_copy(this, source, Element::f32, destination.size());
    rows_out(floats(source), destination.data());
  }
  void copy_out(View source, std::span<std::uint8_t> destination) override {
    checks::host_copy(this, source, Element::u8, destination.size());
    rows_out(bytes(source), destination.data());
  }
  void copy(View source, View destination) override {
    checks::device_copy(this, source, destination);
    if (source.element() == Element::f32) {
      copy_rows(floats(source), floats(destination));
    } else {
      copy_rows(bytes(source), bytes(destination));
    }
  }
  void fill(View destination, float value) override {
    checks::fill(this, destination, value);
    if (destination.element() == Element::f32) {
      fill_rows(floats(destination), value);
    } else {
      fill_rows(bytes(destination), static_cast<std::uint8_t>(value));
    }
  }
  void synchronize() override {}
  [[nodiscard]] std::int64_t allocated_bytes() const override { return memory_.allocated_bytes(); }
  [[nodiscard]] std::int64_t peak_bytes() const override { return memory_.peak_bytes(); }

  [[nodiscard]] LinearOps& linear() override { return linear_; }
  [[nodiscard]] ModelOps& model() override { return model_; }
  [[nodiscard]] PruneOps& prune() override { return prune_; }
  [[nodiscard]] SparseOps& sparse() override { return sparse_; }
  [[nodiscard]] UpdateOps& updates() override { return updates_; }
  [[nodiscard]] CsrOps& csr() override { return csr_; }

 protected:
  void* allocate_bytes(std::size_t bytes) override { return memory_.allocate(bytes); }
  void free_bytes(void* data) noexcept override { memory_.release(data); }

 private:
  template <class T>
  static void rows_in(const T* source, Matrix<T> to) {
    for (std::int64_t row = 0; row < to.rows; ++row)
      for (std::int64_t col = 0; col < to.cols; ++col) to.at(row, col) = source[row * to.cols + col];
  }
  template <class T>
  static void rows_out(Matrix<T> from, T* destination) {
    for (std::int64_t row = 0; row < from.rows; ++row)
      for (std::int64_t col = 0; col < from.cols; ++col)
        destination[row * from.cols + col] = from.at(row, col);
  }
  template <class T>
  static void copy_rows(Matrix<T> from, Matrix<T> to) {
    for (std::int64_t row = 0; row < from.rows; ++row)
      for (std::int64_t col = 0; col < from.cols; ++col) to.at(row, col) = from.at(row, col);
  }
  template <class T>
  static void fill_rows(Matrix<T> to, T value) {
    for (std::int64_t row = 0; row < to.rows; ++row)
      for (std::int64_t col = 0; col < to.cols; ++col) to.at(row, col) = value;
  }

  HostMemory memory_;
  ReferenceLinear linear_;
  ReferenceModel model_;
  ReferencePrune prune_;
  ReferenceSparse sparse_;
  HostUpdates updates_{sparse_};
  HostCsr csr_{this, [](std::int64_t units, const std::function<void(std::int64_t)>& body) {
                 for (std::int64_t unit = 0; unit < units; ++unit) body(unit);
               }};
};

}  // namespace
}  // namespace reference

std::unique_ptr<Backend> make_reference_backend(Products products) {
  return std::make_unique<reference::ReferenceBackend>(products);
}

}  // namespace fedspallm::backend
