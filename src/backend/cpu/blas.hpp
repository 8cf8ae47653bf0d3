// SPDX-License-Identifier: Apache-2.0
// Purpose: the OpenBLAS routines that the CPU backend uses, single-threaded, row-major. The library is opened
// at run time rather than linked, because it chooses its kernels once, at load time, and old versions know no
// new CPUs: Debian 12's takes an Emerald Rapids for a Prescott and runs SSE3 kernels at a fifth of the speed.
// So the environment variable OPENBLAS_CORETYPE is set, from what the CPU can do, before the library opens. A
// value that the user set is left alone. Non-goal: BLAS libraries other than OpenBLAS.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace fedspallm::backend::cpu {

class Blas {
 public:
  /// May set OPENBLAS_CORETYPE in this process' environment: construct the first one before other threads
  /// read it. The variable FEDSPALLM_OPENBLAS names another library file. The library stays loaded until the
  /// process ends.
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
