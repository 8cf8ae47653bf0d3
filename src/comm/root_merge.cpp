// SPDX-License-Identifier: Apache-2.0
#include "root_merge.hpp"

#include "fedspallm/wire/device.hpp"

#include <algorithm>
#include <array>
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

wire::Expected expected_of(const PlannedUnit& unit, const Announcement& said) {
  return {.unit = unit.id,
          .rows = unit.rows,
          .cols = unit.cols,
          .dtype = unit.dtype,
          .with_diagonal = unit.with_diagonal,
          .client = said.client};
}

DataError refused(const PlanIndex& plan, std::size_t index, const Announcement& said,
                  const DataError& error) {
  return DataError(fmt::format("refused what rank {} sent as client {}'s update of {}: {}",
                               plan.rank_of(said.client), said.client, describe(plan.unit(index)),
                               error.what()));
}

wire::MatrixUpdate decode_announced(const PlanIndex& plan, std::size_t index, const Announcement& said,
                                    std::span<const std::byte> bytes) {
  try {
    wire::MatrixUpdate update = wire::decode(bytes, expected_of(plan.unit(index), said));
    check_as_announced(said, update);
    return update;
  } catch (const DataError& error) {
    throw refused(plan, index, said, error);
  }
}

}  // namespace

void RootMerge::begin(const ReadyUnit& ready) {
  if (current_ != nullptr) return;
  const PlannedUnit& unit = context_.plan.unit(ready.index);
  current_ = std::make_unique<CountedMerge>(unit, ready.scale, ready.diagonal_scale, context_.merge_memory,
                                            context_.device != nullptr);
  added_ = 0;
  if (context_.device == nullptr) return;
  on_device_ = context_.device->port->begin_merge(unit.rows, unit.cols, unit.dtype, ready.scale.q);
}

bool RootMerge::add(const ReadyUnit& ready, std::span<const wire::MatrixUpdate> updates) {
  begin(ready);
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

/// The diagonal comes to the host, which adds it.
void RootMerge::check_and_add(const ReadyUnit& ready, const Announcement& said,
                              std::span<const std::byte> piece) {
  const PlannedUnit& unit = context_.plan.unit(ready.index);
  DevicePort& port = *context_.device->port;
  std::array<std::byte, wire::kHeaderBytes> head{};
  port.download(piece.data(), head);
  wire::check_device_header(head, expected_of(unit, said), said.kept);
  std::vector<float> diagonal(unit.with_diagonal ? static_cast<std::size_t>(unit.cols) : 0);
  const wire::DeviceLayout layout =
      wire::device_layout(unit.rows, unit.cols, said.kept, unit.dtype, unit.with_diagonal);
  if (!diagonal.empty())
    port.download(piece.data() + layout.diagonal, std::as_writable_bytes(std::span(diagonal)));
  const DeviceMerge::Found found = on_device_->add(piece.data(), said.kept);
  check<DataError>(!found.padding_set, "mask bits beyond the last weight are set");
  check<DataError>(
      found.kept == said.kept,
      fmt::format("it has {} set mask bits where {} weights were announced", found.kept, said.kept));
  check<DataError>(found.largest <= said.largest,  // false for what is not finite
                   fmt::format("it holds values up to {} where {} was announced as the largest",
                               found.largest, said.largest));
  for (std::size_t column = 0; column < diagonal.size(); ++column)
    check<DataError>(diagonal[column] >= 0 && diagonal[column] <= said.largest_diagonal,
                     fmt::format("diag(H) of column {} is {}, where {} was announced as the largest", column,
                                 diagonal[column], said.largest_diagonal));
  if (!diagonal.empty()) current_->merge().add_diagonal(diagonal);
}

bool RootMerge::add_on_device(const ReadyUnit& ready, const Announcement& said,
                              std::span<const std::byte> piece) {
  begin(ready);
  try {
    check_and_add(ready, said, piece);
  } catch (const DataError& error) {
    throw refused(context_.plan, ready.index, said, error);
  }
  return ++added_ == ready.said.size();
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
  completed.reports = ready.said;
  const auto group = groups_.find(unit.diagonal_unit);
  if (merge != nullptr && group != groups_.end()) {
    completed.diagonal_sums = group->second.sums;
    completed.diagonal_scale = group->second.scale;
  }
  aggregate::MergedMatrix finished;
  if (merge != nullptr && on_device_ != nullptr) {
    finished = on_device_->finish(std::ssize(ready.said), context_.options.rules, completed.diagonal_sums);
    on_device_.reset();
    completed.merge = nullptr;
    completed.finished = &finished;
  }
  on_completed_(completed);
  if (context_.plan.last_of_group(ready.index) == ready.index) groups_.erase(unit.diagonal_unit);
}

}  // namespace fedspallm::comm
