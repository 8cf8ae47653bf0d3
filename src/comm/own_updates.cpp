// SPDX-License-Identifier: Apache-2.0
#include "own_updates.hpp"

#include "owners/slice_plan.hpp"
#include <algorithm>
#include <numeric>

namespace fedspallm::comm {

namespace {

[[noreturn]] void throw_other_update(const RankContext& context, std::size_t index, std::uint32_t client) {
  throw LogicError(fmt::format("submit_later: another update was made than was summarized of client {}: {}",
                               client, describe(context.plan.unit(index))));
}

/// Slices of updates that are made whole for each of them.
MakeSlices cut_whole_ones(const RankContext& context, std::size_t index, const OwnUpdates& later,
                          std::mutex& mutex) {
  const auto whole = [&context, index, said = later.later, make = later.make, &mutex](std::uint32_t client) {
    const auto found =
        std::lower_bound(said.begin(), said.end(), client,
                         [](const UpdateSummary& one, std::uint32_t wanted) { return one.client < wanted; });
    const std::lock_guard lock(mutex);
    return make_summarized(context, index, *found, make);
  };
  const auto cut = [](const wire::PackedMatrix& matrix, const aggregate::Slice& slice) {
    const auto words = std::min((slice.begin + 63) / 64, std::ssize(matrix.bits));
    std::int64_t value = wire::count_mask_bits(std::span(matrix.bits).first(static_cast<std::size_t>(words)));
    return wire::slice(matrix, slice.begin, slice.end, value);
  };
  MakeSlices slices;
  slices.kept = [whole, cut](std::uint32_t client, std::span<const aggregate::Slice> wanted) {
    const wire::MatrixUpdate update = whole(client);
    std::vector<std::int64_t> kept;
    for (const aggregate::Slice& slice : wanted) kept.push_back(cut(update.matrix, slice).kept);
    return kept;
  };
  slices.make = [whole, cut, &context](std::uint32_t client, const aggregate::Slice& slice) {
    const ScopedTime counted_twice(context.making_nanoseconds, -1);
    return cut(whole(client).matrix, slice);
  };
  slices.diagonal = [whole, &context](std::uint32_t client) {
    const ScopedTime counted_twice(context.making_nanoseconds, -1);
    return whole(client).hessian_diagonal;
  };
  return slices;
}

}  // namespace

wire::MatrixUpdate make_summarized(const RankContext& context, std::size_t index, const UpdateSummary& said,
                                   const MakeUpdate& make) {
  const ScopedTime time(context.making_nanoseconds);
  wire::MatrixUpdate update = make(said.client);
  const PlannedUnit& unit = context.plan.unit(index);
  const std::size_t diagonal = unit.with_diagonal ? static_cast<std::size_t>(unit.cols) : 0;
  if (update.unit != unit.id || update.client != said.client || update.matrix.rows != unit.rows ||
      update.matrix.cols != unit.cols || update.matrix.dtype != unit.dtype ||
      update.matrix.kept != said.kept || update.hessian_diagonal.size() != diagonal)
    throw_other_update(context, index, said.client);
  return update;
}

void count_slices(const RankContext& context, std::size_t index, OwnUpdates& later, std::mutex& mutex) {
  if (!later.slices.make) later.slices = cut_whole_ones(context, index, later, mutex);
  std::vector<aggregate::Slice> slices;
  for (int owner = 0; owner < context.link.size(); ++owner)
    slices.push_back(slice_of(context.plan.unit(index), context.options, owner, context.link.size()));
  later.kept.reserve(later.later.size() * slices.size());
  for (const UpdateSummary& said : later.later) {
    const std::vector<std::int64_t> kept = later.slices.kept(said.client, slices);
    later.kept.insert(later.kept.end(), kept.begin(), kept.end());
    if (kept.size() != slices.size() ||
        std::accumulate(kept.begin(), kept.end(), std::int64_t{0}) != said.kept)
      throw_other_update(context, index, said.client);
  }
}

wire::PackedMatrix make_slice(const RankContext& context, std::size_t index, const OwnUpdates& later,
                              std::size_t position, int owner) {
  const ScopedTime time(context.making_nanoseconds);
  const PlannedUnit& unit = context.plan.unit(index);
  const aggregate::Slice slice = slice_of(unit, context.options, owner, context.link.size());
  const std::uint32_t client = later.later[position].client;
  wire::PackedMatrix matrix = later.slices.make(client, slice);
  if (matrix.rows != slice.size() || matrix.cols != 1 || matrix.dtype != unit.dtype ||
      matrix.kept != later.kept_of(position, owner))
    throw_other_update(context, index, client);
  return matrix;
}

std::vector<float> make_diagonal(const RankContext& context, std::size_t index, const OwnUpdates& later,
                                 std::size_t position) {
  const ScopedTime time(context.making_nanoseconds);
  const std::uint32_t client = later.later[position].client;
  std::vector<float> diagonal = later.slices.diagonal(client);
  if (std::ssize(diagonal) != context.plan.unit(index).cols) throw_other_update(context, index, client);
  return diagonal;
}

void add_in_passes(const RankContext& context, std::size_t index, OwnUpdates& own,
                   const std::function<bool(std::span<const wire::MatrixUpdate>)>& add) {
  const bool go_on = own.ready.empty() || add(own.ready);
  own.ready = {};
  for (std::size_t begin = 0; go_on && begin < own.later.size(); begin += kMadeAtOnce) {
    const PlannedUnit& unit = context.plan.unit(index);
    std::vector<wire::MatrixUpdate> made;
    std::int64_t bytes = 0;
    for (std::size_t i = begin; i < std::min(begin + kMadeAtOnce, own.later.size()); ++i) {
      const ScopedTime not_merging(context.merging_nanoseconds, -1);
      made.push_back(make_summarized(context, index, own.later[i], own.make));
      bytes += wire::encoded_bytes(unit.rows, unit.cols, own.later[i].kept, unit.dtype, unit.with_diagonal);
    }
    context.merge_memory.add(bytes);
    struct Forget {
      Gauge& gauge;
      std::int64_t bytes;
      ~Forget() { gauge.subtract(bytes); }
    } const forget{context.merge_memory, bytes};
    if (!add(made)) return;
  }
}

}  // namespace fedspallm::comm
