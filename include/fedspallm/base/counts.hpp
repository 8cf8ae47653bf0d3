// SPDX-License-Identifier: Apache-2.0
// Purpose: the exact integer counts behind "sparsity" (rulings.md 4), one place for pruning, merging and
// reports.
#pragma once

#include <cstdint>

namespace fedspallm {

/// T = ceil(s d), where s d within 1e-6 of an integer is that integer (0.55 * 100 in double would give 56).
/// @pre 0 <= s <= 1, d >= 0
[[nodiscard]] std::int64_t exact_count(double sparsity, std::int64_t size);

}  // namespace fedspallm
