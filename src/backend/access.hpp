// SPDX-License-Identifier: Apache-2.0
// Purpose: the backends' own way from a View to its elements. Only files under src/backend include it.
// Non-goal: checks; an op calls checks.hpp first.
#pragma once

#include "fedspallm/backend/tensor.hpp"

#include <cstdint>

namespace fedspallm::backend {

struct Access {
  [[nodiscard]] static float* f32(const View& view) { return static_cast<float*>(view.data_); }
  [[nodiscard]] static std::uint8_t* u8(const View& view) { return static_cast<std::uint8_t*>(view.data_); }
  [[nodiscard]] static void* data(const View& view) { return view.data_; }
};

/// Row-major elements with a stride: what an op's loops work on.
template <class T>
struct Matrix {
  T* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;
  [[nodiscard]] T* row(std::int64_t index) const { return data + index * stride; }
  [[nodiscard]] T& at(std::int64_t row_index, std::int64_t column) const { return row(row_index)[column]; }
  [[nodiscard]] std::int64_t size() const { return rows * cols; }
  [[nodiscard]] bool contiguous() const { return stride == cols || rows <= 1; }
};

[[nodiscard]] inline Matrix<float> floats(const View& view) {
  return {Access::f32(view), view.rows(), view.cols(), view.stride()};
}
[[nodiscard]] inline Matrix<std::uint8_t> bytes(const View& view) {
  return {Access::u8(view), view.rows(), view.cols(), view.stride()};
}

}  // namespace fedspallm::backend
