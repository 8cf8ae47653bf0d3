// SPDX-License-Identifier: Apache-2.0
// The emulated cuBLAS and cuSOLVER: plain loops by columns, in double.
#include "fedspallm/base/dtype.hpp"

#include "cusolverDn.h"
#include <cmath>
#include <vector>

namespace {

char any_object;

/// Element (row, column) of an operand stored by columns, of any of the types.
struct Operand {
  const void* data;
  cudaDataType type;
  std::int64_t ld;
  cublasOperation_t op;

  [[nodiscard]] double at(std::int64_t row, std::int64_t column) const {
    const std::int64_t index = op == CUBLAS_OP_N ? row + column * ld : column + row * ld;
    if (type == CUDA_R_32F) return static_cast<double>(static_cast<const float*>(data)[index]);
    const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
    return static_cast<double>(type == CUDA_R_16F ? fedspallm::f16_to_float(bits)
                                                  : fedspallm::bf16_to_float(bits));
  }
};

/// The operand in one piece: `vectors` of length k, the operand's rows or its columns.
std::vector<double> packed(const Operand& operand, std::int64_t vectors, std::int64_t k, bool rows) {
  std::vector<double> result;
  result.reserve(static_cast<std::size_t>(vectors * k));
  for (std::int64_t vector = 0; vector < vectors; ++vector)
    for (std::int64_t i = 0; i < k; ++i)
      result.push_back(rows ? operand.at(vector, i) : operand.at(i, vector));
  return result;
}

double dot(const double* a, const double* b, std::int64_t count) {
  double sums[4] = {};  // side by side, so that the compiler may use vectors
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    for (std::int64_t j = 0; j < 4; ++j) sums[j] += a[i + j] * b[i + j];
  for (; i < count; ++i) sums[0] += a[i] * b[i];
  return sums[0] + sums[1] + sums[2] + sums[3];
}

/// As cuBLAS demands of every operand.
bool valid(const Operand& operand, std::int64_t rows, std::int64_t columns) {
  return operand.data != nullptr && operand.ld >= (operand.op == CUBLAS_OP_N ? rows : columns);
}

cublasStatus_t product(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const Operand& a,
                       const Operand& b, double beta, float* c, std::int64_t ldc) {
  if (!valid(a, m, k) || !valid(b, k, n) || c == nullptr || ldc < m) return CUBLAS_STATUS_INVALID_VALUE;
  const std::vector<double> left = packed(a, m, k, true), right = packed(b, n, k, false);
  for (std::int64_t column = 0; column < n; ++column)
    for (std::int64_t row = 0; row < m; ++row) {
      const double sum = dot(left.data() + row * k, right.data() + column * k, k);
      float& result = c[row + column * ldc];
      result = static_cast<float>(alpha * sum + (beta == 0 ? 0 : beta * static_cast<double>(result)));
    }
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

const char* cublasGetStatusString(cublasStatus_t) {
  return "an emulated status";
}
cublasStatus_t cublasGetProperty(libraryPropertyType, int* value) {
  *value = 0;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = reinterpret_cast<cublasHandle_t>(&any_object);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetAtomicsMode(cublasHandle_t, cublasAtomicsMode_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void*, std::size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t, cublasOperation_t op_a, cublasOperation_t op_b, std::int64_t m,
                               std::int64_t n, std::int64_t k, const void* alpha, const void* a,
                               cudaDataType type_a, std::int64_t lda, const void* b, cudaDataType type_b,
                               std::int64_t ldb, const void* beta, void* c, cudaDataType type_c,
                               std::int64_t ldc, cublasComputeType_t, cublasGemmAlgo_t) {
  if (type_a != type_b || type_c != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  return product(m, n, k, static_cast<double>(*static_cast<const float*>(alpha)), {a, type_a, lda, op_a},
                 {b, type_b, ldb, op_b}, static_cast<double>(*static_cast<const float*>(beta)),
                 static_cast<float*>(c), ldc);
}

cublasStatus_t cublasGemmStridedBatchedEx_64(
    cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, std::int64_t m, std::int64_t n,
    std::int64_t k, const void* alpha, const void* a, cudaDataType type_a, std::int64_t lda,
    long long stride_a, const void* b, cudaDataType type_b, std::int64_t ldb, long long stride_b,
    const void* beta, void* c, cudaDataType type_c, std::int64_t ldc, long long stride_c, std::int64_t count,
    cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  const auto at = [](const void* first, cudaDataType type, long long elements) {
    return static_cast<const char*>(first) + elements * (type == CUDA_R_32F ? 4 : 2);
  };
  for (std::int64_t i = 0; i < count; ++i) {
    const cublasStatus_t status =
        cublasGemmEx_64(handle, op_a, op_b, m, n, k, alpha, at(a, type_a, i * stride_a), type_a, lda,
                        at(b, type_b, i * stride_b), type_b, ldb, beta, static_cast<float*>(c) + i * stride_c,
                        type_c, ldc, compute, algorithm);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSsyrk_64(cublasHandle_t, cublasFillMode_t fill, cublasOperation_t op, std::int64_t n,
                              std::int64_t k, const float* alpha, const float* a, std::int64_t lda,
                              const float* beta, float* c, std::int64_t ldc) {
  const Operand left{a, CUDA_R_32F, lda, op};
  if (!valid(left, n, k) || ldc < n) return CUBLAS_STATUS_INVALID_VALUE;
  const std::vector<double> rows = packed(left, n, k, true);
  for (std::int64_t column = 0; column < n; ++column)
    for (std::int64_t row = 0; row < n; ++row) {
      if (fill == CUBLAS_FILL_MODE_LOWER ? row < column : row > column) continue;
      const double sum = dot(rows.data() + row * k, rows.data() + column * k, k);
      float& result = c[row + column * ldc];
      result = static_cast<float>(static_cast<double>(*alpha) * sum +
                                  static_cast<double>(*beta) * static_cast<double>(result));
    }
  return CUBLAS_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  *handle = reinterpret_cast<cusolverDnHandle_t>(&any_object);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t) {
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t, cudaStream_t) {
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetDeterministicMode(cusolverDnHandle_t, cusolverDeterministicMode_t) {
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* parameters) {
  *parameters = reinterpret_cast<cusolverDnParams_t>(&any_object);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t) {
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXpotrf_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, cublasFillMode_t,
                                             std::int64_t n, cudaDataType, const void*, std::int64_t,
                                             cudaDataType, std::size_t* device_bytes,
                                             std::size_t* host_bytes) {
  *device_bytes = static_cast<std::size_t>(n) * sizeof(double);
  *host_bytes = 8;
  return CUSOLVER_STATUS_SUCCESS;
}

/// A = U^T U on the upper triangle, by columns.
cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t, cusolverDnParams_t, cublasFillMode_t fill,
                                  std::int64_t n, cudaDataType type, void* a, std::int64_t lda, cudaDataType,
                                  void* device_memory, std::size_t, void* host_memory, std::size_t,
                                  int* info) {
  if (fill != CUBLAS_FILL_MODE_UPPER || type != CUDA_R_32F || device_memory == nullptr ||
      host_memory == nullptr)
    return CUSOLVER_STATUS_NOT_SUPPORTED;
  auto* matrix = static_cast<float*>(a);
  std::vector<double> u(static_cast<std::size_t>(n * n));
  const auto at = [&](std::int64_t row, std::int64_t column) -> double& {
    return u[static_cast<std::size_t>(row + column * n)];
  };
  *info = 0;
  for (std::int64_t column = 0; column < n; ++column) {
    for (std::int64_t row = 0; row <= column; ++row) {
      const double sum =
          static_cast<double>(matrix[row + column * lda]) - dot(&at(0, row), &at(0, column), row);
      if (row == column && sum <= 0) {  // NaN goes on, as the check of pivots has to see it
        *info = static_cast<int>(column + 1);
        return CUSOLVER_STATUS_SUCCESS;
      }
      at(row, column) = row == column ? std::sqrt(sum) : sum / at(row, row);
      matrix[row + column * lda] = static_cast<float>(at(row, column));
    }
  }
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXtrtri_bufferSize(cusolverDnHandle_t, cublasFillMode_t, cublasDiagType_t,
                                             std::int64_t n, cudaDataType, void*, std::int64_t,
                                             std::size_t* device_bytes, std::size_t* host_bytes) {
  *device_bytes = static_cast<std::size_t>(n) * sizeof(double);
  *host_bytes = 8;
  return CUSOLVER_STATUS_SUCCESS;
}

/// The inverse of an upper triangular matrix, by columns.
cusolverStatus_t cusolverDnXtrtri(cusolverDnHandle_t, cublasFillMode_t fill, cublasDiagType_t, std::int64_t n,
                                  cudaDataType type, void* a, std::int64_t lda, void* device_memory,
                                  std::size_t, void* host_memory, std::size_t, int* info) {
  if (fill != CUBLAS_FILL_MODE_UPPER || type != CUDA_R_32F || device_memory == nullptr ||
      host_memory == nullptr)
    return CUSOLVER_STATUS_NOT_SUPPORTED;
  auto* matrix = static_cast<float*>(a);
  std::vector<double> u(static_cast<std::size_t>(n * n));  // by rows
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t k = i; k < n; ++k)
      u[static_cast<std::size_t>(i * n + k)] = static_cast<double>(matrix[i + k * lda]);
  std::vector<double> column(static_cast<std::size_t>(n));
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t i = j; i >= 0; --i) {
      const double* row = u.data() + i * n;
      const double sum = (i == j ? 1.0 : 0.0) - dot(row + i + 1, column.data() + i + 1, j - i);
      column[static_cast<std::size_t>(i)] = sum / row[i];
    }
    for (std::int64_t i = 0; i <= j; ++i)
      matrix[i + j * lda] = static_cast<float>(column[static_cast<std::size_t>(i)]);
  }
  *info = 0;
  return CUSOLVER_STATUS_SUCCESS;
}
