// SPDX-License-Identifier: Apache-2.0
// Purpose: a product with a 2:4 matrix by hardware made for it (sparse tensor cores, through cuSPARSELt), to
// show in `bench spmm` what such a layer gains. Pruning and evaluation never use it. Non-goal: other
// patterns.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <memory>
#include <string>

namespace fedspallm::backend {

/// y = x w^T with 16-bit x, w, y and sums in fp32, prepared once and run many times. In the memory of its
/// backend, which must outlive it.
class StructuredProduct {
 public:
  virtual ~StructuredProduct() = default;
  /// Queued, as the backend's own ops.
  virtual void run() = 0;
  /// What run() computed, widened. @pre y is n x out
  virtual void result(View y) = 0;
  /// E.g. "cusparselt 0.8.1 f16".
  [[nodiscard]] virtual std::string name() const = 0;
};

struct StructuredChoice {
  std::unique_ptr<StructuredProduct> product;  // null where there is none ...
  std::string lacks;                           // ... and why
};

/// @param x  n x in. @param w  out x in, of whose every four consecutive weights of a row at most two are not
/// 0
/// @throws LogicError when w is not so
[[nodiscard]] StructuredChoice make_structured_product(Backend& backend, View x, View w);

}  // namespace fedspallm::backend
