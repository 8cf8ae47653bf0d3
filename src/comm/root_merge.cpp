// SPDX-License-Identifier: Apache-2.0
#include "root_merge.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::comm {

ReadyUnit make_ready(std::size_t index, std::vector<Announcement> said) {
  std::sort(said.begin(), said.end(), [](const auto& a, const auto& b) { return a.client < b.client; });
  float largest = 0;
  float largest_diagonal = 0;
  for (const Announcement& one : said) {
    largest = std::max(largest, one.largest);
    largest_diagonal = std::max(largest_diagonal, one.largest_diagonal);
  }
  const auto clients = static_cast<std::int64_t>(said.size());
  return {index, std::move(said), aggregate::FixedPoint::covering(largest, clients),
          aggregate::FixedPoint::covering(largest_diagonal, clients)};
}

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
  const PlannedUnit& unit = context_.plan.unit(ready.index);
  const auto size = static_cast<std::int64_t>(bytes.size());
  context_.merge_memory.add(size);  // the decoded copy lives beside the encoded one for a moment
  struct Forget {
    Gauge& gauge;
    std::int64_t bytes;
    ~Forget() { gauge.subtract(bytes); }
  } const forget{context_.merge_memory, size};
  const wire::MatrixUpdate update = wire::decode(bytes, {.unit = unit.id,
                                                         .rows = unit.rows,
                                                         .cols = unit.cols,
                                                         .dtype = unit.dtype,
                                                         .with_diagonal = unit.with_diagonal,
                                                         .client = said.client});
  if (update.matrix.kept != said.kept) {
    throw DataError(fmt::format("client {}'s update of {} keeps {} weights where {} were announced",
                                said.client, describe(unit), update.matrix.kept, said.kept));
  }
  return add(ready, {&update, 1});
}

void RootMerge::complete_added(const ReadyUnit& ready) {
  complete(ready, current_->merge());
  current_.reset();
}

void RootMerge::complete(const ReadyUnit& ready, const aggregate::PartialMerge& merge) {
  const PlannedUnit& unit = context_.plan.unit(ready.index);
  if (unit.with_diagonal && unit.diagonal_unit == ready.index) {
    groups_[ready.index] = {{merge.diagonal_sums().begin(), merge.diagonal_sums().end()},
                            merge.diagonal_scale()};
  }
  CompletedUnit completed;
  completed.index = ready.index;
  completed.merge = &merge;
  for (const Announcement& one : ready.said) completed.reports.push_back({one.client, one.kept, one.report});
  const auto group = groups_.find(unit.diagonal_unit);
  if (group != groups_.end()) {
    completed.diagonal_sums = group->second.sums;
    completed.diagonal_scale = group->second.scale;
  }
  on_completed_(completed);
  if (context_.plan.last_of_group(ready.index) == ready.index) groups_.erase(unit.diagonal_unit);
}

}  // namespace fedspallm::comm
