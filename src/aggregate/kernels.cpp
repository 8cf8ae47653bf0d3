// SPDX-License-Identifier: Apache-2.0
#include "kernels.hpp"

#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"

namespace fedspallm::aggregate {

namespace baseline {
extern const Kernels kKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
#endif

const Kernels& kernels_for(Isa isa) {
  require(supported(isa), "kernels_for: a kernel set that this CPU supports");
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::kKernels;
  if (isa == Isa::avx2) return avx2::kKernels;
#endif
  return baseline::kKernels;
}

}  // namespace fedspallm::aggregate
