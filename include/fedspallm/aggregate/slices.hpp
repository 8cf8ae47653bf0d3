// SPDX-License-Identifier: Apache-2.0
// Purpose: one matrix merged by several owners, each of whom holds the sums of a run of consecutive weights
// and finishes them. What all must know together (the histogram of votes, the last tied weight to go) are
// sums of short vectors over the owners, made by a callback. The slices joined are finish()'s result, bit for
// bit. Non-goal: how sums and slices travel.
#pragma once

#include "fedspallm/aggregate/merge.hpp"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace fedspallm::aggregate {

/// Weights [begin, end) of a matrix, row-major.
struct Slice {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  [[nodiscard]] std::int64_t size() const { return end - begin; }
  friend bool operator==(const Slice&, const Slice&) = default;
};

/// The weights of one of `owners` equal shares: whole tiles and whole N:M groups of `group` weights (0:
/// none), so that mask words and groups belong to one owner. In order, without gaps; empty where there are
/// fewer tiles than owners. Decided by shape alone.
/// @pre rows, cols >= 0; group >= 0; 0 <= owner < owners
[[nodiscard]] Slice slice_of(std::int64_t rows, std::int64_t cols, int group, int owner, int owners);

/// Which part of which matrix an owner finishes.
struct SlicePlace {
  std::int64_t rows = 0, cols = 0;  // of the whole matrix
  int owner = 0;
  int owners = 1;
};

/// Replaces each number by its sum over all owners. All owners call it with the same lengths in the same
/// order, which sums_of_finishing() lists; an exception passes through.
using SumOverOwners = std::function<void(std::span<std::int64_t>)>;

/// Lengths of the vectors that finish_slice() sums, in order, whatever the data. None where no weight's fate
/// depends on those of other owners: N:M groups, no mask expansion.
[[nodiscard]] std::vector<std::int64_t> sums_of_finishing(const MergeRules& rules, std::int64_t clients,
                                                          int owners);

/// One owner's part of finish(): matrix (size x 1), votes and counts are of the slice; the target is the
/// whole matrix', and without N:M groups above_target, too. Every owner takes part, also one whose slice is
/// empty.
/// @param slice  sums of the weights of slice_of(), as a PartialMerge of size x 1; its own diagonal is not
/// used
/// @param diagonal_sums  of the whole matrix' input group, as for finish()
/// @pre as for finish()
[[nodiscard]] MergedMatrix finish_slice(const PartialMerge& slice, const SlicePlace& place,
                                        std::int64_t clients, const MergeRules& rules, DType dtype,
                                        std::span<const std::int64_t> diagonal_sums,
                                        const SumOverOwners& sum);

/// The whole matrix from its slices, in the order of owners; they are used up.
/// @pre the sizes add up to rows * cols; every slice but the last that is not empty has whole tiles
[[nodiscard]] MergedMatrix join_slices(std::int64_t rows, std::int64_t cols,
                                       std::vector<MergedMatrix>&& slices);

}  // namespace fedspallm::aggregate
