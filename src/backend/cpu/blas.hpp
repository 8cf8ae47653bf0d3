// SPDX-License-Identifier: Apache-2.0
// Purpose: the OpenBLAS routines that the CPU backend uses, single-threaded, row-major. The library is opened
// at run time rather than linked, because its choice of kernels happens once, at load time: old versions do
// not know new CPUs and fall back to SSE3 kernels (5x slower). Where that happened it is opened again with
// OPENBLAS_CORETYPE set. A value that the user set in OPENBLAS_CORETYPE is left alone. Non-goal: BLAS
// libraries other than OpenBLAS.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace fedspallm::backend::cpu {

class Blas {
 public:
  /// Changes the environment variable OPENBLAS_CORETYPE of this process when the first choice was poor:
  /// construct before other threads read the environment. The variable FEDSPALLM_OPENBLAS names another
  /// library file.
  /// @throws ResourceError when no OpenBLAS can be opened.
  Blas();

  /// Name of the kernels in use, as OpenBLAS calls them ("Haswell", "SkylakeX").
  [[nodiscard]] const std::string& core() const { return core_; }
  /// Version and build options.
  [[nodiscard]] const std::string& description() const { return description_; }

  /// To be called by a thread before its products: OpenMP builds of OpenBLAS keep the number of threads per
  /// caller.
  void single_threaded() const;

  /// c = alpha op(a) op(b) + beta c; op(a): m x k, op(b): k x n.
  void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
            const float* a, std::int64_t stride_a, const float* b, std::int64_t stride_b, float beta,
            float* c, std::int64_t stride_c) const;
  /// Upper triangle of c += alpha a^T a; a: k x n.
  void syrk(std::int64_t n, std::int64_t k, float alpha, const float* a, std::int64_t stride_a, float* c,
            std::int64_t stride_c) const;

 private:
  struct Close {
    void operator()(void* library) const noexcept;
  };
  using Gemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int, float,
                        float*, int);
  using Syrk = void (*)(int, int, int, int, int, float, const float*, int, float, float*, int);
  using SetThreads = void (*)(int);

  void open();
  [[nodiscard]] void* symbol(const char* name, bool required) const;

  std::unique_ptr<void, Close> library_;
  std::string core_, description_;
  Gemm gemm_ = nullptr;
  Syrk syrk_ = nullptr;
  SetThreads set_openmp_threads_ = nullptr;
};

}  // namespace fedspallm::backend::cpu
