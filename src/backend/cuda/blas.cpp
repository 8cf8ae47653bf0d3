// SPDX-License-Identifier: Apache-2.0
// cuBLAS thinks in columns: a row-major c = a b is its c^T = b^T a^T, so operands change places.
#include "blas.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/format.h>

namespace fedspallm::backend::cuda {

namespace {

/// What NVIDIA advises for Hopper; more than older devices need.
constexpr std::size_t blas_workspace_bytes = std::size_t{32} << 20;

cublasOperation_t operation(const Operand& operand) {
  return operand.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
}

cudaDataType_t data_type(DType type) {
  switch (type) {
    case DType::f16:
      return CUDA_R_16F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f32:
      break;
  }
  return CUDA_R_32F;
}

}  // namespace

std::string Blas::version() {
  int major = 0, minor = 0, patch = 0;
  check_cublas(cublasGetProperty(MAJOR_VERSION, &major), "cublasGetProperty");
  check_cublas(cublasGetProperty(MINOR_VERSION, &minor), "cublasGetProperty");
  check_cublas(cublasGetProperty(PATCH_LEVEL, &patch), "cublasGetProperty");
  return fmt::format("cublas-{}.{}.{}", major, minor, patch);
}

cublasHandle_t Blas::blas() {
  if (blas_.get() != nullptr) return blas_.get();
  cublasHandle_t handle = nullptr;
  check_cublas(cublasCreate(&handle), "cublasCreate");
  BlasHandle created(handle);
  check_cublas(cublasSetStream(handle, stream_), "cublasSetStream");
  check_cublas(cublasSetMathMode(handle, CUBLAS_DEFAULT_MATH), "cublasSetMathMode");
  check_cublas(cublasSetAtomicsMode(handle, CUBLAS_ATOMICS_NOT_ALLOWED), "cublasSetAtomicsMode");
  check_cublas(cublasSetWorkspace(handle, workspace_.bytes(blas_workspace_bytes), blas_workspace_bytes),
               "cublasSetWorkspace");
  blas_ = std::move(created);
  return blas_.get();
}

cusolverDnHandle_t Blas::solver() {
  if (solver_.get() != nullptr) return solver_.get();
  cusolverDnHandle_t handle = nullptr;
  check_cusolver(cusolverDnCreate(&handle), "cusolverDnCreate");
  SolverHandle created(handle);
  check_cusolver(cusolverDnSetStream(handle, stream_), "cusolverDnSetStream");
  check_cusolver(cusolverDnSetDeterministicMode(handle, CUSOLVER_DETERMINISTIC_RESULTS),
                 "cusolverDnSetDeterministicMode");
  cusolverDnParams_t parameters = nullptr;
  check_cusolver(cusolverDnCreateParams(&parameters), "cusolverDnCreateParams");
  parameters_ = SolverParameters(parameters);
  solver_ = std::move(created);
  return solver_.get();
}

void Blas::gemm(DType type, std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const Operand& a,
                const Operand& b, float beta, float* c, std::int64_t stride_c) {
  check_cublas(cublasGemmEx_64(blas(), operation(b), operation(a), n, m, k, &alpha, b.data, data_type(type),
                               b.stride, a.data, data_type(type), a.stride, &beta, c, CUDA_R_32F, stride_c,
                               CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
               "cublasGemmEx");
}

void Blas::gemm_batch(DType type, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
                      const Operand& a, const Operand& b, float* c, std::int64_t stride_c,
                      std::int64_t c_batch_stride, std::int64_t count) {
  const float beta = 0.0F;
  check_cublas(cublasGemmStridedBatchedEx_64(
                   blas(), operation(b), operation(a), n, m, k, &alpha, b.data, data_type(type), b.stride,
                   b.batch_stride, a.data, data_type(type), a.stride, a.batch_stride, &beta, c, CUDA_R_32F,
                   stride_c, c_batch_stride, count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
               "cublasGemmStridedBatchedEx");
}

void Blas::syrk(std::int64_t n, std::int64_t k, float alpha, const float* a, std::int64_t stride_a, float* c,
                std::int64_t stride_c) {
  // By columns a is a^T (n x k), and the upper triangle of rows is the lower one of columns.
  const float beta = 1.0F;
  check_cublas(cublasSsyrk_64(blas(), CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, n, k, &alpha, a, stride_a, &beta,
                              c, stride_c),
               "cublasSsyrk");
}

void* Blas::reserve(std::size_t device_bytes, std::size_t host_bytes) {
  if (host_workspace_.size() < host_bytes) host_workspace_.resize(host_bytes);
  return solver_workspace_.bytes(device_bytes);
}

void Blas::cholesky_lower(std::int64_t n, float* matrix, int* info) {
  // The lower triangle of rows is the upper one of columns: A = U^T U there, and U^T = L.
  std::size_t device_bytes = 0, host_bytes = 0;
  check_cusolver(cusolverDnXpotrf_bufferSize(solver(), parameters_.get(), CUBLAS_FILL_MODE_UPPER, n,
                                             CUDA_R_32F, matrix, n, CUDA_R_32F, &device_bytes, &host_bytes),
                 "cusolverDnXpotrf_bufferSize");
  void* workspace = reserve(device_bytes, host_bytes);
  check_cusolver(
      cusolverDnXpotrf(solver(), parameters_.get(), CUBLAS_FILL_MODE_UPPER, n, CUDA_R_32F, matrix, n,
                       CUDA_R_32F, workspace, device_bytes, host_workspace_.data(), host_bytes, info),
      "cusolverDnXpotrf");
}

void Blas::invert_lower(std::int64_t n, float* matrix, int* info) {
  std::size_t device_bytes = 0, host_bytes = 0;
  check_cusolver(cusolverDnXtrtri_bufferSize(solver(), CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n,
                                             CUDA_R_32F, matrix, n, &device_bytes, &host_bytes),
                 "cusolverDnXtrtri_bufferSize");
  void* workspace = reserve(device_bytes, host_bytes);
  check_cusolver(
      cusolverDnXtrtri(solver(), CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_32F, matrix, n,
                       workspace, device_bytes, host_workspace_.data(), host_bytes, info),
      "cusolverDnXtrtri");
}

}  // namespace fedspallm::backend::cuda
