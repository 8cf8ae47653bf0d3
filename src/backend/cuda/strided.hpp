// SPDX-License-Identifier: Apache-2.0
// Purpose: a rectangle of device memory as kernels take it: by value, indexable in host and device code.
// Non-goals: ownership; checks (an op calls checks.hpp first); what a View knows about its backend.
#pragma once

#include "../../base/host_device.hpp"
#include <cstdint>
#include <type_traits>

namespace fedspallm::backend::cuda {

/// rows x cols elements, row-major, `stride` elements from row to row.
template <class T>
struct Strided {
  T* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;

  Strided() = default;
  FEDSPALLM_HOST_DEVICE Strided(T* first, std::int64_t row_count, std::int64_t col_count,
                                std::int64_t row_stride)
      : data(first), rows(row_count), cols(col_count), stride(row_stride) {}
  /// A rectangle of the same elements that may not be written.
  template <class Other>
  requires(std::is_same_v<const Other, T>) FEDSPALLM_HOST_DEVICE
      Strided(const Strided<Other>& other)  // NOLINT: implicit, as from T* to const T*
      : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}

  [[nodiscard]] FEDSPALLM_HOST_DEVICE T& at(std::int64_t row, std::int64_t column) const {
    return data[row * stride + column];
  }
  /// The element of a row-major index. 32-bit division where it does: a 64-bit one costs some 100
  /// instructions.
  [[nodiscard]] FEDSPALLM_HOST_DEVICE T& flat(std::int64_t index) const {
    if (contiguous()) return data[index];
    if (index <= 0xffffffffLL && cols <= 0xffffffffLL) {
      const auto row = static_cast<std::uint32_t>(index) / static_cast<std::uint32_t>(cols);
      const auto column = static_cast<std::uint32_t>(index) % static_cast<std::uint32_t>(cols);
      return data[static_cast<std::int64_t>(row) * stride + static_cast<std::int64_t>(column)];
    }
    return data[index / cols * stride + index % cols];
  }
  [[nodiscard]] FEDSPALLM_HOST_DEVICE std::int64_t size() const { return rows * cols; }
  [[nodiscard]] FEDSPALLM_HOST_DEVICE bool contiguous() const { return stride == cols || rows <= 1; }
};

}  // namespace fedspallm::backend::cuda
