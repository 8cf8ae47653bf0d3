// SPDX-License-Identifier: Apache-2.0
// Purpose: which set of CPU kernels to run. Files named *.isa.cpp are compiled once per set with the macro
// FEDSPALLM_ISA = baseline | avx2 | avx512 as their inner namespace, some of the backend's also with
// avx512bf16; callers choose at run time. Non-goals: choosing OpenBLAS's kernels (backend/cpu/blas.hpp).
#pragma once

#include <string_view>

namespace fedspallm {

enum class Isa { baseline, avx2, avx512 };

[[nodiscard]] std::string_view name_of(Isa isa);
[[nodiscard]] bool supported(Isa isa);
/// AVX512-BF16: products of bf16 pairs, added to fp32. Not a set of its own: it serves the 16-bit products
/// only.
[[nodiscard]] bool supports_bf16_products();
/// The best supported set, or the one that the environment's FEDSPALLM_ISA names.
/// @throws ConfigError when it names an unknown or unsupported one.
[[nodiscard]] Isa select_isa();

}  // namespace fedspallm
