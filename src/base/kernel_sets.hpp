// SPDX-License-Identifier: Apache-2.0
// Purpose: what chooses among the kernel sets of a module whose *.isa.cpp file defines one table
// `const Kernels kKernels` in each. A macro, because the tables' namespaces must be the module's own.
// Non-goals: modules with more than one table (backend/cpu/engine.cpp), which sets there are
// (base/cpu_features.hpp).
#pragma once

#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"

#if defined(__x86_64__)
#define FEDSPALLM_WIDER_KERNEL_SETS(Kernels) \
  namespace avx2 {                           \
  extern const Kernels kKernels;             \
  }                                          \
  namespace avx512 {                         \
  extern const Kernels kKernels;             \
  }
#define FEDSPALLM_RETURN_WIDER_KERNEL_SET(isa)       \
  if ((isa) == Isa::avx512) return avx512::kKernels; \
  if ((isa) == Isa::avx2) return avx2::kKernels;
#else
#define FEDSPALLM_WIDER_KERNEL_SETS(Kernels)
#define FEDSPALLM_RETURN_WIDER_KERNEL_SET(isa)
#endif

/// Defines `const Kernels& function(Isa isa)` in the module's namespace. @pre of that: supported(isa)
#define FEDSPALLM_KERNEL_SETS(Kernels, function)                                \
  namespace baseline {                                                          \
  extern const Kernels kKernels;                                                \
  }                                                                             \
  FEDSPALLM_WIDER_KERNEL_SETS(Kernels)                                          \
  const Kernels& function(Isa isa) {                                            \
    require(supported(isa), #function ": a kernel set that this CPU supports"); \
    FEDSPALLM_RETURN_WIDER_KERNEL_SET(isa)                                      \
    return baseline::kKernels;                                                  \
  }
