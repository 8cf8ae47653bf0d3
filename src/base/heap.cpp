// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/heap.hpp"

#include <cstdlib>
#include <initializer_list>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace fedspallm {

bool keep_freed_memory() noexcept {
#if defined(__GLIBC__)
  for (const char* name : {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"})
    if (std::getenv(name) != nullptr) return false;
  constexpr int kMapped = 32 << 20;  // the largest that glibc takes
  constexpr int kTrimmed = 512 << 20;
  return mallopt(M_MMAP_THRESHOLD, kMapped) == 1 && mallopt(M_TRIM_THRESHOLD, kTrimmed) == 1;
#else
  return false;
#endif
}

void give_back_freed_memory() noexcept {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace fedspallm
