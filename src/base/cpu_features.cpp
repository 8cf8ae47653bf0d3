// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/cpu_features.hpp"

#include "fedspallm/base/error.hpp"

#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fedspallm {

#if defined(__x86_64__)
namespace {

/// Asked of the CPU itself: clang 16 does not know the name. That the system keeps the registers, AVX2 tells.
bool supports_f16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace
#endif

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::baseline:
      return "baseline";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "unknown";
}

bool supported(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::baseline:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2") && supports_f16c();
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && supported(Isa::avx2);
  }
  return false;
#else
  return isa == Isa::baseline;
#endif
}

bool supports_bf16_products() {
#if defined(__x86_64__)
  return supported(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

Isa select_isa() {
  if (const char* wanted = std::getenv("FEDSPALLM_ISA"); wanted != nullptr && *wanted != '\0') {
    for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
      if (name_of(isa) != wanted) continue;
      check<ConfigError>(supported(isa),
                         fmt::format("FEDSPALLM_ISA={}: this CPU does not support it", wanted));
      return isa;
    }
    throw ConfigError(fmt::format("FEDSPALLM_ISA={}: expected baseline, avx2 or avx512", wanted));
  }
  for (const Isa isa : {Isa::avx512, Isa::avx2})
    if (supported(isa)) return isa;
  return Isa::baseline;
}

}  // namespace fedspallm
