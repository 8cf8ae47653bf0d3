// SPDX-License-Identifier: Apache-2.0
// Purpose: the cuBLAS and cuSOLVER routines that the CUDA backend uses, row-major. cuBLAS's default math
// mode: fp32 operands are multiplied as fp32 (no TF32) and accumulated in fp32; cuSOLVER in its deterministic
// mode. The workspaces are the backend's, so the libraries allocate nothing of their own. Non-goal: other
// types than float, and 16-bit operands accumulated in float.
#pragma once

#include "fedspallm/base/dtype.hpp"

#include "device_memory.hpp"
#include <cstdint>
#include <string>
#include <vector>

namespace fedspallm::backend::cuda {

/// A row-major operand: elements and stride; 16-bit ones have the type of the product.
struct Operand {
  const void* data = nullptr;
  std::int64_t stride = 0;
  bool transposed = false;
  std::int64_t batch_stride = 0;  // elements from one product of a batch to the next
};

class Blas {
 public:
  /// Handles are made at the first call: a backend that only copies needs no 100 MB of library.
  Blas(DeviceMemory& memory, cudaStream_t stream)
      : stream_(stream), workspace_(memory), solver_workspace_(memory) {}

  /// "cublas-13.0.2".
  [[nodiscard]] static std::string version();

  /// c = alpha op(a) op(b) + beta c; op(a): m x k, op(b): k x n, c: m x n fp32; a and b of `type`.
  void gemm(DType type, std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const Operand& a,
            const Operand& b, float beta, float* c, std::int64_t stride_c);
  /// `count` products c = alpha a b of one shape; a and b of `type`, c fp32, `c_batch_stride` elements apart.
  void gemm_batch(DType type, std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const Operand& a,
                  const Operand& b, float* c, std::int64_t stride_c, std::int64_t c_batch_stride,
                  std::int64_t count);
  /// Upper triangle of c += alpha a^T a; a: k x n.
  void syrk(std::int64_t n, std::int64_t k, float alpha, const float* a, std::int64_t stride_a, float* c,
            std::int64_t stride_c);

  /// Lower Cholesky factor L of the n x n matrix (contiguous, lower triangle given) in place; *info (on the
  /// device) becomes 0 or the number of the first column whose pivot is not positive, counted from 1.
  void cholesky_lower(std::int64_t n, float* matrix, int* info);
  /// L -> L^-1, n x n contiguous, lower triangle.
  void invert_lower(std::int64_t n, float* matrix, int* info);

 private:
  [[nodiscard]] cublasHandle_t blas();
  [[nodiscard]] cusolverDnHandle_t solver();
  /// Device and host workspace of a cuSOLVER call.
  [[nodiscard]] void* reserve(std::size_t device_bytes, std::size_t host_bytes);

  cudaStream_t stream_;
  Workspace workspace_, solver_workspace_;
  std::vector<std::byte> host_workspace_;
  BlasHandle blas_;
  SolverHandle solver_;
  SolverParameters parameters_;
};

}  // namespace fedspallm::backend::cuda
