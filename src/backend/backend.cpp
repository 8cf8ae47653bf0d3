// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/backend/backend.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/format.h>

#include <limits>

namespace fedspallm::backend {

namespace {

/// The start of the element (row, column) of a view, which may have no memory when it has no elements.
void* element_at(void* data, Element element, std::int64_t offset) {
  if (data == nullptr) return nullptr;
  return static_cast<std::byte*>(data) + offset * static_cast<std::int64_t>(size_of(element));
}

}  // namespace

std::string_view name_of(Products products) {
  switch (products) {
    case Products::f32:
      return "f32";
    case Products::f16:
      return "f16";
    case Products::bf16:
      return "bf16";
  }
  return "unknown";
}

View View::row_range(std::int64_t first, std::int64_t count) const {
  require(first >= 0 && count >= 0 && first <= rows_ - count,
          fmt::format("row_range: {} rows from row {} on within {} rows", count, first, rows_));
  return {owner_, element_at(data_, element_, first * stride_), element_, count, cols_, stride_};
}

View View::column_range(std::int64_t first, std::int64_t count) const {
  require(first >= 0 && count >= 0 && first <= cols_ - count,
          fmt::format("column_range: {} columns from column {} on within {} columns", count, first, cols_));
  return {owner_, element_at(data_, element_, first), element_, rows_, count, stride_};
}

View View::reshaped(std::int64_t new_rows, std::int64_t new_cols) const {
  require(contiguous(), "reshaped: a contiguous view");
  require(new_rows >= 0 && new_cols >= 0 && new_rows * new_cols == size(),
          fmt::format("reshaped: {} x {} has as many elements as {} x {}", new_rows, new_cols, rows_, cols_));
  return {owner_, data_, element_, new_rows, new_cols, new_cols};
}

void Tensor::Deleter::operator()(void* data) const noexcept {
  if (owner != nullptr) owner->free_bytes(data);
}

Tensor Backend::allocate(std::int64_t rows, std::int64_t cols, Element element) {
  require(rows >= 0 && cols >= 0, fmt::format("allocate: rows, cols >= 0, found {} x {}", rows, cols));
  constexpr std::int64_t limit = std::numeric_limits<std::int64_t>::max() / 8;
  check<ResourceError>(cols == 0 || rows <= limit / cols,
                       fmt::format("memory: a tensor of {} x {} elements exceeds 64-bit sizes", rows, cols));
  const auto bytes = static_cast<std::size_t>(rows * cols) * size_of(element);
  Tensor tensor;
  tensor.memory_ = std::unique_ptr<void, Tensor::Deleter>(allocate_bytes(bytes), Tensor::Deleter{this});
  tensor.view_ = View(this, tensor.memory_.get(), element, rows, cols, cols);
  return tensor;
}

std::shared_ptr<float> Backend::allocate_host(std::int64_t count) {
  require(count >= 0, "allocate_host: count >= 0");
  return {new float[static_cast<std::size_t>(count)], std::default_delete<float[]>()};
}

void Backend::store(View source, float* host) {
  require(source.contiguous(), "store: a contiguous view");
  copy_out(source, std::span<float>(host, static_cast<std::size_t>(source.size())));
}

void Backend::restore(const float* host, View destination) {
  require(destination.contiguous(), "restore: a contiguous view");
  copy_in(std::span<const float>(host, static_cast<std::size_t>(destination.size())), destination);
}

void Backend::prefetch(std::span<const std::span<const std::byte>>) {}

}  // namespace fedspallm::backend
