// SPDX-License-Identifier: Apache-2.0
// The emulated cuSPARSE: plain loops, sums in double.
#include "cusparse.h"

struct cusparseSpMatDescr {
  std::int64_t rows, cols, nonzeros;
  std::int32_t* offsets;
  std::int32_t* columns;
  float* values;
};
struct cusparseDnMatDescr {
  std::int64_t rows, cols, ld;
  float* values;
  cusparseOrder_t order;
  [[nodiscard]] float& at(std::int64_t row, std::int64_t col) const {
    return values[order == CUSPARSE_ORDER_ROW ? row * ld + col : col * ld + row];
  }
};

namespace {

char any_object;
constexpr std::size_t workspace_bytes = 64;

bool same_shape(cusparseSpMatDescr_t a, cusparseDnMatDescr_t b) {
  return a->rows == b->rows && a->cols == b->cols;
}

}  // namespace

const char* cusparseGetErrorString(cusparseStatus_t) {
  return "an emulated status";
}
cusparseStatus_t cusparseCreate(cusparseHandle_t* handle) {
  *handle = reinterpret_cast<cusparseHandle_t>(&any_object);
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroy(cusparseHandle_t) {
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSetStream(cusparseHandle_t, cudaStream_t) {
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseCreateCsr(cusparseSpMatDescr_t* matrix, std::int64_t rows, std::int64_t cols,
                                   std::int64_t nonzeros, void* offsets, void* columns, void* values,
                                   cusparseIndexType_t, cusparseIndexType_t, cusparseIndexBase_t,
                                   cudaDataType type) {
  if (rows <= 0 || cols <= 0 || offsets == nullptr || type != CUDA_R_32F ||
      (nonzeros > 0 && (columns == nullptr || values == nullptr)))
    return CUSPARSE_STATUS_INVALID_VALUE;
  *matrix = new cusparseSpMatDescr{rows,
                                   cols,
                                   nonzeros,
                                   static_cast<std::int32_t*>(offsets),
                                   static_cast<std::int32_t*>(columns),
                                   static_cast<float*>(values)};
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroySpMat(cusparseSpMatDescr_t matrix) {
  delete matrix;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSpMatGetSize(cusparseSpMatDescr_t matrix, std::int64_t* rows, std::int64_t* cols,
                                      std::int64_t* nonzeros) {
  *rows = matrix->rows;
  *cols = matrix->cols;
  *nonzeros = matrix->nonzeros;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseCsrSetPointers(cusparseSpMatDescr_t matrix, void* offsets, void* columns,
                                        void* values) {
  matrix->offsets = static_cast<std::int32_t*>(offsets);
  matrix->columns = static_cast<std::int32_t*>(columns);
  matrix->values = static_cast<float*>(values);
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseCreateDnMat(cusparseDnMatDescr_t* matrix, std::int64_t rows, std::int64_t cols,
                                     std::int64_t ld, void* values, cudaDataType type,
                                     cusparseOrder_t order) {
  if (rows <= 0 || cols <= 0 || ld < (order == CUSPARSE_ORDER_ROW ? cols : rows) || values == nullptr ||
      type != CUDA_R_32F)
    return CUSPARSE_STATUS_INVALID_VALUE;
  *matrix = new cusparseDnMatDescr{rows, cols, ld, static_cast<float*>(values), order};
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroyDnMat(cusparseDnMatDescr_t matrix) {
  delete matrix;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseDenseToSparse_bufferSize(cusparseHandle_t, cusparseDnMatDescr_t,
                                                  cusparseSpMatDescr_t, cusparseDenseToSparseAlg_t,
                                                  std::size_t* bytes) {
  *bytes = workspace_bytes;
  return CUSPARSE_STATUS_SUCCESS;
}
/// Counts, and writes the offsets.
cusparseStatus_t cusparseDenseToSparse_analysis(cusparseHandle_t, cusparseDnMatDescr_t dense,
                                                cusparseSpMatDescr_t sparse, cusparseDenseToSparseAlg_t,
                                                void* workspace) {
  if (!same_shape(sparse, dense) || workspace == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  std::int32_t count = 0;
  for (std::int64_t row = 0; row < dense->rows; ++row) {
    sparse->offsets[row] = count;
    for (std::int64_t col = 0; col < dense->cols; ++col) count += dense->at(row, col) != 0.0F ? 1 : 0;
  }
  sparse->offsets[dense->rows] = count;
  sparse->nonzeros = count;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDenseToSparse_convert(cusparseHandle_t, cusparseDnMatDescr_t dense,
                                               cusparseSpMatDescr_t sparse, cusparseDenseToSparseAlg_t,
                                               void* workspace) {
  if (!same_shape(sparse, dense) || workspace == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  for (std::int64_t row = 0; row < dense->rows; ++row) {
    std::int32_t place = sparse->offsets[row];
    for (std::int64_t col = 0; col < dense->cols; ++col) {
      if (dense->at(row, col) == 0.0F) continue;
      sparse->columns[place] = static_cast<std::int32_t>(col);
      sparse->values[place++] = dense->at(row, col);
    }
  }
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSparseToDense_bufferSize(cusparseHandle_t, cusparseSpMatDescr_t,
                                                  cusparseDnMatDescr_t, cusparseSparseToDenseAlg_t,
                                                  std::size_t* bytes) {
  *bytes = workspace_bytes;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSparseToDense(cusparseHandle_t, cusparseSpMatDescr_t sparse,
                                       cusparseDnMatDescr_t dense, cusparseSparseToDenseAlg_t,
                                       void* workspace) {
  if (!same_shape(sparse, dense) || workspace == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  for (std::int64_t row = 0; row < dense->rows; ++row) {
    for (std::int64_t col = 0; col < dense->cols; ++col) dense->at(row, col) = 0.0F;
    for (std::int32_t k = sparse->offsets[row]; k < sparse->offsets[row + 1]; ++k)
      dense->at(row, sparse->columns[k]) = sparse->values[k];
  }
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSpMM_bufferSize(cusparseHandle_t, cusparseOperation_t, cusparseOperation_t,
                                         const void*, cusparseSpMatDescr_t, cusparseDnMatDescr_t, const void*,
                                         cusparseDnMatDescr_t, cudaDataType, cusparseSpMMAlg_t,
                                         std::size_t* bytes) {
  *bytes = workspace_bytes;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSpMM(cusparseHandle_t, cusparseOperation_t, cusparseOperation_t, const void* alpha,
                              cusparseSpMatDescr_t a, cusparseDnMatDescr_t b, const void* beta,
                              cusparseDnMatDescr_t c, cudaDataType, cusparseSpMMAlg_t, void* workspace) {
  if (a->cols != b->rows || a->rows != c->rows || b->cols != c->cols || workspace == nullptr)
    return CUSPARSE_STATUS_INVALID_VALUE;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  for (std::int64_t row = 0; row < a->rows; ++row)
    for (std::int64_t col = 0; col < b->cols; ++col) {
      double sum = 0;
      for (std::int32_t k = a->offsets[row]; k < a->offsets[row + 1]; ++k)
        sum += static_cast<double>(a->values[k]) * static_cast<double>(b->at(a->columns[k], col));
      float& result = c->at(row, col);
      result = static_cast<float>(static_cast<double>(scale) * sum +
                                  (keep == 0 ? 0 : static_cast<double>(keep) * static_cast<double>(result)));
    }
  return CUSPARSE_STATUS_SUCCESS;
}
