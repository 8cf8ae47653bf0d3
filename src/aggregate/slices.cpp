// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/slices.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/rounding.hpp"

#include "slice_selector.hpp"
#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

namespace fedspallm::aggregate {

Slice slice_of(std::int64_t rows, std::int64_t cols, int group, int owner, int owners) {
  require(rows >= 0 && cols >= 0 && group >= 0, "slice_of: rows, cols, group >= 0");
  require(owner >= 0 && owner < owners, "slice_of: 0 <= owner < owners");
  const std::int64_t size = rows * cols;
  const std::int64_t grain = group > 0 ? std::lcm(kTile, std::int64_t{group}) : kTile;
  const std::int64_t grains = divide_up(size, grain);
  const auto boundary = [&](std::int64_t number) { return std::min(size, grains * number / owners * grain); };
  return {boundary(owner), boundary(owner + 1)};
}

std::vector<std::int64_t> sums_of_finishing(const MergeRules& rules, std::int64_t clients, int owners) {
  if (!rules.expand || rules.group > 0) return {};  // each owner knows all that it needs
  std::vector<std::int64_t> lengths = {clients + 1};
  if (rules.tie != TieRule::index)
    lengths.insert(lengths.end(), SliceSelector::kDigits, SliceSelector::kBins);
  lengths.push_back(owners);
  return lengths;
}

namespace {

void add_counts(const MergedMatrix& slice, MergedMatrix& whole) {
  require(slice.histogram.size() == whole.histogram.size() && slice.target == whole.target,
          "join_slices: slices of one matrix");
  for (std::size_t votes = 0; votes < whole.histogram.size(); ++votes)
    whole.histogram[votes] += slice.histogram[votes];
  whole.common_zeros += slice.common_zeros;
  whole.expanded += slice.expanded;
  whole.kept_zeros += slice.kept_zeros;
  whole.above_target = whole.above_target || slice.above_target;
}

}  // namespace

MergedMatrix join_slices(std::int64_t rows, std::int64_t cols, std::vector<MergedMatrix>&& slices) {
  require(!slices.empty(), "join_slices: at least one slice");
  std::vector<MergedMatrix> parts = std::move(slices);
  MergedMatrix whole = std::move(parts.front());
  std::int64_t size = whole.matrix.size();
  for (auto part = std::next(parts.begin()); part != parts.end(); ++part) {
    add_counts(*part, whole);
    wire::PackedMatrix& from = part->matrix;
    if (from.size() == 0) continue;
    require(size % kTile == 0, "join_slices: whole tiles before the last slice");
    require(from.dtype == whole.matrix.dtype, "join_slices: one dtype");
    whole.matrix.bits.insert(whole.matrix.bits.end(), from.bits.begin(), from.bits.end());
    whole.matrix.values.insert(whole.matrix.values.end(), from.values.begin(), from.values.end());
    whole.votes.insert(whole.votes.end(), part->votes.begin(), part->votes.end());
    whole.matrix.kept += from.kept;
    size += from.size();
    *part = {};  // its memory is needed no more
  }
  require(size == rows * cols, "join_slices: the sizes add up to the matrix");
  whole.matrix.rows = rows;
  whole.matrix.cols = cols;
  return whole;
}

}  // namespace fedspallm::aggregate
