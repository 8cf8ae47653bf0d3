// SPDX-License-Identifier: Apache-2.0
// Purpose: device data as an opaque, owned rectangle (Tensor) and a window on it (View).
// Host code cannot dereference either; only a backend's ops and copy_in/copy_out reach the elements.
// Non-goals: more than two dimensions, broadcasting, lazy evaluation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace fedspallm::backend {

class Backend;

/// Elements that device data can have. `u8` holds masks: 1 = kept, 0 = dropped.
enum class Element : std::uint8_t { f32, u8 };
[[nodiscard]] constexpr std::size_t size_of(Element element) {
  return element == Element::f32 ? 4 : 1;
}

/// A rows x cols window, row-major, `stride` elements from row to row. Does not own. Cheap to copy.
class View {
 public:
  View() = default;
  View(Backend* owner, void* data, Element element, std::int64_t rows, std::int64_t cols, std::int64_t stride)
      : owner_(owner), data_(data), rows_(rows), cols_(cols), stride_(stride), element_(element) {}

  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t cols() const { return cols_; }
  [[nodiscard]] std::int64_t stride() const { return stride_; }
  [[nodiscard]] std::int64_t size() const { return rows_ * cols_; }
  [[nodiscard]] bool empty() const { return data_ == nullptr || rows_ == 0 || cols_ == 0; }
  [[nodiscard]] bool contiguous() const { return stride_ == cols_ || rows_ <= 1; }
  [[nodiscard]] Element element() const { return element_; }
  [[nodiscard]] Backend* owner() const { return owner_; }

  /// Rows [first, first + count). @pre 0 <= first, first + count <= rows()
  [[nodiscard]] View row_range(std::int64_t first, std::int64_t count) const;
  /// Columns [first, first + count). @pre 0 <= first, first + count <= cols()
  [[nodiscard]] View column_range(std::int64_t first, std::int64_t count) const;
  /// The diagonal as a column (n x 1, stride + 1) of a square view
  [[nodiscard]] View diagonal() const { return {owner_, data_, element_, rows_, 1, stride_ + 1}; }
  /// The same elements as new_rows x new_cols. @pre contiguous(), equal size
  [[nodiscard]] View reshaped(std::int64_t new_rows, std::int64_t new_cols) const;

 private:
  friend struct Access;  // src/backend/access.hpp: the backends' own way to the elements
  Backend* owner_ = nullptr;
  void* data_ = nullptr;
  std::int64_t rows_ = 0, cols_ = 0, stride_ = 0;
  Element element_ = Element::f32;
};

/// Owns contiguous device memory of one backend, which must outlive it. Move-only. Contents start undefined.
class Tensor {
 public:
  Tensor() = default;
  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(Tensor&&) noexcept = default;

  [[nodiscard]] const View& view() const { return view_; }
  operator const View&() const { return view_; }  // NOLINT: a Tensor is used wherever a View is
  [[nodiscard]] std::int64_t rows() const { return view_.rows(); }
  [[nodiscard]] std::int64_t cols() const { return view_.cols(); }
  [[nodiscard]] bool empty() const { return view_.empty(); }

 private:
  friend class Backend;
  struct Deleter {
    Deleter() noexcept : owner(nullptr) {}
    explicit Deleter(Backend* backend) noexcept : owner(backend) {}
    Backend* owner;
    void operator()(void* data) const noexcept;
  };
  std::unique_ptr<void, Deleter> memory_;
  View view_;
};

}  // namespace fedspallm::backend
