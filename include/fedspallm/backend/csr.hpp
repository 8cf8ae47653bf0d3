// SPDX-License-Identifier: Apache-2.0
// Purpose: matrices of which only the non-zeros are stored, by rows (CSR), and products with them: to look at
// what a pruned model would gain where no sparse kernel of its pattern exists (`eval --sparse`, `bench
// spmm`). Pruning itself never uses them. Non-goals: other formats; speed beyond what the libraries give.
#pragma once

#include "fedspallm/backend/tensor.hpp"

#include <cstdint>
#include <memory>

namespace fedspallm::backend {

/// In the memory of the backend that made it, which must outlive it.
class CsrMatrix {
 public:
  CsrMatrix(const Backend* owner, std::int64_t rows, std::int64_t cols, std::int64_t nonzeros)
      : owner_(owner), rows_(rows), cols_(cols), nonzeros_(nonzeros) {}
  virtual ~CsrMatrix() = default;
  CsrMatrix(const CsrMatrix&) = delete;
  CsrMatrix& operator=(const CsrMatrix&) = delete;

  [[nodiscard]] const Backend* owner() const { return owner_; }
  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t cols() const { return cols_; }
  [[nodiscard]] std::int64_t nonzeros() const { return nonzeros_; }
  /// Share of zeros.
  [[nodiscard]] double sparsity() const {
    const auto size = static_cast<double>(rows_ * cols_);
    return size == 0 ? 0 : 1 - static_cast<double>(nonzeros_) / size;
  }

 private:
  const Backend* owner_;
  std::int64_t rows_, cols_, nonzeros_;
};

class CsrOps {
 public:
  virtual ~CsrOps() = default;
  /// The elements of w that are not +-0. @pre fewer than 2^31 of them and of columns
  [[nodiscard]] virtual std::unique_ptr<CsrMatrix> compress(View w) = 0;
  /// w = the matrix, 0 elsewhere. w: as the matrix
  virtual void expand(const CsrMatrix& matrix, View w) = 0;
  /// y = x w^T (+ bias) (+ y when `add`), as LinearOps::linear.  x: n x in, w: out x in, bias: 1 x out or
  /// empty, y: n x out.
  virtual void linear(View x, const CsrMatrix& w, View bias, View y, bool add) = 0;
};

}  // namespace fedspallm::backend
