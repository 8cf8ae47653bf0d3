// SPDX-License-Identifier: Apache-2.0
// CSR by cuSPARSE: conversions, and products as sparse times dense. A row-major x (n x in) is by columns the
// in x n matrix x^T, and y^T = w x^T.
#include "csr_ops.hpp"

#include "fedspallm/base/error.hpp"

#include "../checks.hpp"
#include "kernels.hpp"
#include <algorithm>
#include <utility>

namespace fedspallm::backend::cuda {

namespace {

using SparseMatrix = Owned<cusparseSpMatDescr_t, &destroy_sparse>;
using DenseMatrix = Owned<cusparseDnMatDescr_t, &destroy_dense>;

/// Row offsets, columns and values, in memory of the engine.
class DeviceCsr final : public CsrMatrix {
 public:
  DeviceCsr(const Backend* owner, std::int64_t row_count, std::int64_t col_count, std::int64_t nonzeros,
            DeviceMemory& memory)
      : CsrMatrix(owner, row_count, col_count, nonzeros),
        offsets_(memory),
        columns_(memory),
        values_(memory) {
    offsets = offsets_.elements<std::int32_t>(row_count + 1);
    columns = columns_.elements<std::int32_t>(nonzeros);
    values = values_.elements<float>(nonzeros);
  }
  std::int32_t* offsets;
  std::int32_t* columns;
  float* values;

 private:
  Workspace offsets_, columns_, values_;
};

SparseMatrix describe(std::int64_t rows, std::int64_t cols, std::int64_t nonzeros, std::int32_t* offsets,
                      std::int32_t* columns, float* values) {
  cusparseSpMatDescr_t matrix = nullptr;
  check_cusparse(
      cusparseCreateCsr(&matrix, rows, cols, nonzeros, offsets, columns, values, CUSPARSE_INDEX_32I,
                        CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_32F),
      "cusparseCreateCsr");
  return SparseMatrix(matrix);
}

SparseMatrix describe(const DeviceCsr& matrix) {
  return describe(matrix.rows(), matrix.cols(), matrix.nonzeros(), matrix.offsets, matrix.columns,
                  matrix.values);
}

DenseMatrix describe(const View& view, std::int64_t rows, std::int64_t cols, cusparseOrder_t order) {
  cusparseDnMatDescr_t matrix = nullptr;
  check_cusparse(
      cusparseCreateDnMat(&matrix, rows, cols, view.stride(), Access::f32(view), CUDA_R_32F, order),
      "cusparseCreateDnMat");
  return DenseMatrix(matrix);
}

/// Checked by its owner: this backend makes no other kind.
const DeviceCsr& own(const CsrMatrix& matrix) {
  return static_cast<const DeviceCsr&>(matrix);
}

}  // namespace

void check_cusparse(cusparseStatus_t status, const char* call, std::source_location location) {
  if (status == CUSPARSE_STATUS_SUCCESS) return;
  const std::string text = fmt::format("cuSPARSE: {}: {}", call, cusparseGetErrorString(status));
  if (status == CUSPARSE_STATUS_INVALID_VALUE || status == CUSPARSE_STATUS_NOT_SUPPORTED)
    throw LogicError(text, location);
  throw ResourceError(text + "; is there memory left on the GPU, and do its driver and libraries match?",
                      location);
}

cusparseHandle_t CudaCsr::handle() {
  static_cast<void>(engine_.stream());
  if (handle_.get() != nullptr) return handle_.get();
  cusparseHandle_t created = nullptr;
  check_cusparse(cusparseCreate(&created), "cusparseCreate");
  SparseHandle owned(created);
  check_cusparse(cusparseSetStream(created, engine_.stream()), "cusparseSetStream");
  handle_ = std::move(owned);
  return handle_.get();
}

std::unique_ptr<CsrMatrix> CudaCsr::compress(View w) {
  checks::csr_compress(owner_, w);
  if (w.empty()) {
    auto nothing = std::make_unique<DeviceCsr>(owner_, w.rows(), w.cols(), 0, engine_.memory);
    check_cuda(
        cudaMemsetAsync(nothing->offsets, 0, static_cast<std::size_t>(w.rows() + 1) * sizeof(std::int32_t),
                        engine_.stream()),
        "cudaMemsetAsync");
    return nothing;
  }
  const DenseMatrix dense = describe(w, w.rows(), w.cols(), CUSPARSE_ORDER_ROW);
  // First the offsets alone, which tell how much room columns and values need.
  auto* offsets = engine_.copies.elements<std::int32_t>(w.rows() + 1);
  const SparseMatrix counted = describe(w.rows(), w.cols(), 0, offsets, nullptr, nullptr);
  std::size_t bytes = 0;
  check_cusparse(cusparseDenseToSparse_bufferSize(handle(), dense.get(), counted.get(),
                                                  CUSPARSE_DENSETOSPARSE_ALG_DEFAULT, &bytes),
                 "cusparseDenseToSparse_bufferSize");
  void* workspace = engine_.scratch.bytes(std::max<std::size_t>(bytes, 1));
  check_cusparse(cusparseDenseToSparse_analysis(handle(), dense.get(), counted.get(),
                                                CUSPARSE_DENSETOSPARSE_ALG_DEFAULT, workspace),
                 "cusparseDenseToSparse_analysis");
  std::int64_t rows = 0, cols = 0, nonzeros = 0;
  check_cusparse(cusparseSpMatGetSize(counted.get(), &rows, &cols, &nonzeros), "cusparseSpMatGetSize");
  auto result = std::make_unique<DeviceCsr>(owner_, w.rows(), w.cols(), nonzeros, engine_.memory);
  check_cuda(
      cudaMemcpyAsync(result->offsets, offsets, static_cast<std::size_t>(w.rows() + 1) * sizeof(std::int32_t),
                      cudaMemcpyDeviceToDevice, engine_.stream()),
      "cudaMemcpyAsync on the device");
  check_cusparse(cusparseCsrSetPointers(counted.get(), result->offsets, result->columns, result->values),
                 "cusparseCsrSetPointers");
  check_cusparse(cusparseDenseToSparse_convert(handle(), dense.get(), counted.get(),
                                               CUSPARSE_DENSETOSPARSE_ALG_DEFAULT, workspace),
                 "cusparseDenseToSparse_convert");
  return result;
}

void CudaCsr::expand(const CsrMatrix& matrix, View w) {
  checks::csr_expand(owner_, matrix, w);
  if (w.empty()) return;
  const SparseMatrix sparse = describe(own(matrix));
  const DenseMatrix dense = describe(w, w.rows(), w.cols(), CUSPARSE_ORDER_ROW);
  std::size_t bytes = 0;
  check_cusparse(cusparseSparseToDense_bufferSize(handle(), sparse.get(), dense.get(),
                                                  CUSPARSE_SPARSETODENSE_ALG_DEFAULT, &bytes),
                 "cusparseSparseToDense_bufferSize");
  check_cusparse(
      cusparseSparseToDense(handle(), sparse.get(), dense.get(), CUSPARSE_SPARSETODENSE_ALG_DEFAULT,
                            engine_.scratch.bytes(std::max<std::size_t>(bytes, 1))),
      "cusparseSparseToDense");
}

void CudaCsr::linear(View x, const CsrMatrix& w, View bias, View y, bool add) {
  checks::csr_linear(owner_, x, w, bias, y);
  if (y.empty()) return;
  const bool started = !bias.empty() || w.nonzeros() == 0;
  if (started) start_rows(engine_.stream(), device_row(bias), add, device_floats(y));
  if (w.nonzeros() == 0) return;
  const SparseMatrix left = describe(own(w));
  const DenseMatrix right = describe(x, x.cols(), x.rows(), CUSPARSE_ORDER_COL);
  const DenseMatrix result = describe(y, y.cols(), y.rows(), CUSPARSE_ORDER_COL);
  const float alpha = 1.0F, beta = add || started ? 1.0F : 0.0F;
  std::size_t bytes = 0;
  check_cusparse(cusparseSpMM_bufferSize(handle(), CUSPARSE_OPERATION_NON_TRANSPOSE,
                                         CUSPARSE_OPERATION_NON_TRANSPOSE, &alpha, left.get(), right.get(),
                                         &beta, result.get(), CUDA_R_32F, CUSPARSE_SPMM_CSR_ALG1, &bytes),
                 "cusparseSpMM_bufferSize");
  check_cusparse(cusparseSpMM(handle(), CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE,
                              &alpha, left.get(), right.get(), &beta, result.get(), CUDA_R_32F,
                              CUSPARSE_SPMM_CSR_ALG1, engine_.scratch.bytes(std::max<std::size_t>(bytes, 1))),
                 "cusparseSpMM");
}

}  // namespace fedspallm::backend::cuda
