// SPDX-License-Identifier: Apache-2.0
// Purpose: cuSPARSE behind CsrOps; its handle is made at the first call. Non-goal: pruning.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <cusparse.h>

#include "engine.hpp"
#include <memory>
#include <source_location>

namespace fedspallm::backend::cuda {

inline cusparseStatus_t destroy_sparse(cusparseSpMatDescr_t matrix) {
  return cusparseDestroySpMat(matrix);
}
inline cusparseStatus_t destroy_dense(cusparseDnMatDescr_t matrix) {
  return cusparseDestroyDnMat(matrix);
}
using SparseHandle = Owned<cusparseHandle_t, &cusparseDestroy>;

void check_cusparse(cusparseStatus_t status, const char* call,
                    std::source_location location = std::source_location::current());

class CudaCsr final : public CsrOps {
 public:
  CudaCsr(const Backend* owner, Engine& engine) : owner_(owner), engine_(engine) {}
  [[nodiscard]] std::unique_ptr<CsrMatrix> compress(View w) override;
  void expand(const CsrMatrix& matrix, View w) override;
  void linear(View x, const CsrMatrix& w, View bias, View y, bool add) override;
  [[nodiscard]] Engine& engine() { return engine_; }

 private:
  [[nodiscard]] cusparseHandle_t handle();

  const Backend* owner_;
  Engine& engine_;
  SparseHandle handle_;
};

}  // namespace fedspallm::backend::cuda
