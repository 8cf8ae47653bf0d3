// SPDX-License-Identifier: Apache-2.0
// Purpose: mask expansion (FedSpaLLM eq. 6-7): which kept weights of the merged matrix are dropped, most
// votes first, ties by a rule, what remains equal by row-major index. Non-goals: averages, packing
// (finish.cpp).
#pragma once

#include "fedspallm/aggregate/rules.hpp"
#include "fedspallm/base/dtype.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace fedspallm {
class ThreadPool;
}

namespace fedspallm::aggregate {

/// The merged matrix before it is packed; arrays are padded to whole tiles of 64 weights.
struct DenseMerge {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::uint32_t clients = 0;
  DType dtype = DType::f32;
  const std::byte* elements = nullptr;   // dense, of dtype
  std::span<const std::uint32_t> votes;  // clients that dropped the weight
  std::span<std::uint64_t> words;        // mask: 1 = kept; expansion clears bits
  TieRule tie = TieRule::index;
  std::span<const double> column_weights;  // score: sum of diag(H) per column
  ThreadPool* pool = nullptr;
  [[nodiscard]] std::int64_t size() const { return rows * cols; }
};

/// Drops exactly `count` kept weights. @param histogram  of the votes, clients + 1 bins
/// @pre 0 <= count <= number of kept weights
void expand_mask(const DenseMerge& merge, std::span<const std::int64_t> histogram, std::int64_t count);

struct GroupExpansion {
  std::int64_t expanded = 0;
  bool above_target = false;  // some group has more common zeros than its M - N
};

/// In each group of `group` weights of a row, drops kept ones until `group - keep` are dropped.
/// @pre cols is a multiple of group, 0 < keep <= group
[[nodiscard]] GroupExpansion expand_groups(const DenseMerge& merge, int keep, int group);

}  // namespace fedspallm::aggregate
