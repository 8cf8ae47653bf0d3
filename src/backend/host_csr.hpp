// SPDX-License-Identifier: Apache-2.0
// Purpose: CsrOps of backends whose memory is the host's. A product takes 16 rows of x at a time, turned, so
// that each stored weight meets 16 numbers side by side. Non-goal: to beat a dense product.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <functional>
#include <vector>

namespace fedspallm::backend {

class HostCsr final : public CsrOps {
 public:
  /// Calls the body for each unit, on as many threads as the backend has.
  using Parallel =
      std::function<void(std::int64_t units, const std::function<void(std::int64_t unit)>& body)>;

  HostCsr(const Backend* owner, Parallel parallel) : owner_(owner), parallel_(std::move(parallel)) {}
  [[nodiscard]] std::unique_ptr<CsrMatrix> compress(View w) override;
  void expand(const CsrMatrix& matrix, View w) override;
  void linear(View x, const CsrMatrix& w, View bias, View y, bool add) override;

 private:
  const Backend* owner_;
  Parallel parallel_;
};

}  // namespace fedspallm::backend
