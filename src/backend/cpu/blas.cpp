// SPDX-License-Identifier: Apache-2.0
#include "blas.hpp"

#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace fedspallm::backend::cpu {

namespace {

// The CBLAS standard's numbers.
constexpr int row_major = 101, no_transpose = 111, transpose = 112, upper = 121;

/// OpenBLAS's name for the sgemm kernels that suit this CPU: its later names (Cooperlake, SapphireRapids)
/// differ from SkylakeX in 16-bit products only. Null where its own choice is as good as any.
const char* suitable_core() {
#if defined(__x86_64__)
  if (supported(Isa::avx512)) return "SkylakeX";
  if (supported(Isa::avx2)) return __builtin_cpu_is("amd") ? "Zen" : "Haswell";
#endif
  return nullptr;
}

int narrowed(std::int64_t value) {
  require(value >= 0 && value <= std::numeric_limits<int>::max(), "a BLAS dimension that fits 32 bits");
  return static_cast<int>(value);
}

/// BLAS wants strides of at least 1 even for empty operands.
int stride(std::int64_t value) {
  return narrowed(std::max<std::int64_t>(1, value));
}

}  // namespace

void Blas::Close::operator()(void* library) const noexcept {
  dlclose(library);
}

void Blas::open() {
  const char* named = std::getenv("FEDSPALLM_OPENBLAS");
  std::string reasons;
  for (const char* file : {named, "libopenblas.so.0", "libopenblas.so"}) {
    if (file == nullptr) continue;
    library_.reset(dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE));
    if (library_ && dlsym(library_.get(), "openblas_get_corename") != nullptr) break;
    const char* reason = dlerror();
    reasons +=
        fmt::format("; {}: {}", file, library_ ? "not OpenBLAS" : (reason == nullptr ? "unknown" : reason));
    library_.reset();
  }
  check<ResourceError>(
      library_ != nullptr,
      "OpenBLAS: the library could not be opened (Debian: apt install libopenblas0-openmp; another "
      "file: FEDSPALLM_OPENBLAS=PATH)" +
          reasons);
  core_ = reinterpret_cast<const char* (*)()>(symbol("openblas_get_corename", true))();
  description_ = reinterpret_cast<const char* (*)()>(symbol("openblas_get_config", true))();
}

Blas::Blas() {
  if (const char* core = suitable_core(); core != nullptr) setenv("OPENBLAS_CORETYPE", core, 0);
  open();
  gemm_ = reinterpret_cast<Gemm>(symbol("cblas_sgemm", true));
  syrk_ = reinterpret_cast<Syrk>(symbol("cblas_ssyrk", true));
  reinterpret_cast<SetThreads>(symbol("openblas_set_num_threads", true))(1);
  set_openmp_threads_ = reinterpret_cast<SetThreads>(symbol("omp_set_num_threads", false));
}

void* Blas::symbol(const char* name, bool required) const {
  void* address = dlsym(library_.get(), name);
  check<ResourceError>(address != nullptr || !required, fmt::format("OpenBLAS: the library has no {}", name));
  return address;
}

void Blas::single_threaded() const {
  if (set_openmp_threads_ != nullptr) set_openmp_threads_(1);
}

void Blas::gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                float alpha, const float* a, std::int64_t stride_a, const float* b, std::int64_t stride_b,
                float beta, float* c, std::int64_t stride_c) const {
  gemm_(row_major, transpose_a ? transpose : no_transpose, transpose_b ? transpose : no_transpose,
        narrowed(m), narrowed(n), narrowed(k), alpha, a, stride(stride_a), b, stride(stride_b), beta, c,
        stride(stride_c));
}

void Blas::syrk(std::int64_t n, std::int64_t k, float alpha, const float* a, std::int64_t stride_a, float* c,
                std::int64_t stride_c) const {
  syrk_(row_major, upper, transpose, narrowed(n), narrowed(k), alpha, a, stride(stride_a), 1.0F, c,
        stride(stride_c));
}

}  // namespace fedspallm::backend::cpu
