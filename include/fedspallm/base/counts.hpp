// SPDX-License-Identifier: Apache-2.0
// Purpose: the exact integer counts behind "sparsity" (rulings.md 4), one place for pruning, merging and
// reports. Non-goals: which weights go.
#pragma once

#include <cstdint>
#include <span>

namespace fedspallm {

/// T = ceil(s d), where s d within 1e-6 of an integer is that integer (0.55 * 100 in double would give 56).
/// @pre 0 <= s <= 1, d >= 0
[[nodiscard]] std::int64_t exact_count(double sparsity, std::int64_t size);

/// Down to which number of votes mask expansion goes (FedSpaLLM eq. 7): weights kept by 1 .. level - 1
/// clients go; of those kept by `level` clients the first `rank` go.
struct Level {
  std::uint32_t level = 0;  // 0: nothing goes
  std::int64_t rank = 0;    // 1 .. number of weights at the level
};

/// @param kept  bin k = weights that k clients kept. @param count  weights to drop beyond those that nobody
/// kept
[[nodiscard]] Level find_level(std::span<const std::int64_t> kept, std::int64_t count);

}  // namespace fedspallm
