// SPDX-License-Identifier: Apache-2.0
// Purpose: which set of CPU kernels to run. Files named *.isa.cpp are compiled once per set with the macro
// FEDSPALLM_ISA = baseline | avx2 | avx512 as their inner namespace; callers choose at run time.
#pragma once

#include <string_view>

namespace fedspallm {

enum class Isa { baseline, avx2, avx512 };

[[nodiscard]] std::string_view name_of(Isa isa);
[[nodiscard]] bool supported(Isa isa);
/// The best supported set, or the one that the environment's FEDSPALLM_ISA names.
/// @throws ConfigError when it names an unknown or unsupported one.
[[nodiscard]] Isa select_isa();

}  // namespace fedspallm
