// SPDX-License-Identifier: Apache-2.0
#include "root_merge.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::comm {

namespace {

/// What was announced decides the scale and, by its count, the room: it must have been the truth.
void check_as_announced(const Announcement& said, const wire::MatrixUpdate& update) {
  if (update.matrix.kept != said.kept) {
    throw DataError(
        fmt::format("it keeps {} weights where {} were announced", update.matrix.kept, said.kept));
  }
  const float largest = wire::largest_magnitude(update.matrix);
  float largest_diagonal = 0;
  for (const float value : update.hessian_diagonal) largest_diagonal = std::max(largest_diagonal, value);
  if (largest > said.largest || largest_diagonal > said.largest_diagonal) {
    throw DataError(
        fmt::format("it holds values up to {} (diagonal: {}) where {} ({}) was announced as the largest",
                    largest, largest_diagonal, said.largest, said.largest_diagonal));
  }
}

wire::MatrixUpdate decode_announced(const PlanIndex& plan, std::size_t index, const Announcement& said,
                                    std::span<const std::byte> bytes) {
  const PlannedUnit& unit = plan.unit(index);
  try {
    wire::MatrixUpdate update = wire::decode(bytes, {.unit = unit.id,
                                                     .rows = unit.rows,
                                                     .cols = unit.cols,
                                                     .dtype = unit.dtype,
                                                     .with_diagonal = unit.with_diagonal,
                                                     .client = said.client});
    check_as_announced(said, update);
    return update;
  } catch (const DataError& error) {
    throw DataError(fmt::format("refused what rank {} sent as client {}'s update of {}: {}",
                                plan.rank_of(said.client), said.client, describe(unit), error.what()));
  }
}

}  // namespace

bool RootMerge::add(const ReadyUnit& ready, std::span<const wire::MatrixUpdate> updates) {
  if (current_ == nullptr) {
    current_ = std::make_unique<CountedMerge>(context_.plan.unit(ready.index), ready.scale,
                                              ready.diagonal_scale, context_.merge_memory);
    added_ = 0;
  }
  current_->add(updates);
  added_ += updates.size();
  return added_ == ready.said.size();
}

bool RootMerge::add_encoded(const ReadyUnit& ready, const Announcement& said,
                            std::span<const std::byte> bytes) {
  const auto size = static_cast<std::int64_t>(bytes.size());
  context_.merge_memory.add(size);  // the decoded copy lives beside the encoded one for a moment
  struct Forget {
    Gauge& gauge;
    std::int64_t bytes;
    ~Forget() { gauge.subtract(bytes); }
  } const forget{context_.merge_memory, size};
  const wire::MatrixUpdate update = decode_announced(context_.plan, ready.index, said, bytes);
  return add(ready, {&update, 1});
}

void RootMerge::complete_added(const ReadyUnit& ready) {
  complete(ready, &current_->merge());
  current_.reset();
}

void RootMerge::complete(const ReadyUnit& ready, const aggregate::PartialMerge* merge) {
  const PlannedUnit& unit = context_.plan.unit(ready.index);
  if (merge != nullptr && unit.with_diagonal && unit.diagonal_unit == ready.index) {
    groups_[ready.index] = {{merge->diagonal_sums().begin(), merge->diagonal_sums().end()},
                            merge->diagonal_scale()};
  }
  CompletedUnit completed;
  completed.index = ready.index;
  completed.merge = merge;
  for (const Announcement& one : ready.said) completed.reports.push_back({one.client, one.kept, one.report});
  const auto group = groups_.find(unit.diagonal_unit);
  if (merge != nullptr && group != groups_.end()) {
    completed.diagonal_sums = group->second.sums;
    completed.diagonal_scale = group->second.scale;
  }
  on_completed_(completed);
  if (context_.plan.last_of_group(ready.index) == ready.index) groups_.erase(unit.diagonal_unit);
}

}  // namespace fedspallm::comm
