// SPDX-License-Identifier: Apache-2.0
#include "slice_writer.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::comm {

namespace {
constexpr std::size_t kUnitsAtOnce = 2;  // whose slices a writer holds before their callbacks have returned
constexpr int kRoot = 0;
}  // namespace

SliceWriter::SliceWriter(const RankContext& context, Worker& worker, Exchange::OnCompleted on_completed)
    : context_(context), worker_(worker), on_completed_(std::move(on_completed)) {
  for (std::size_t index = 0; index < context.plan.size(); ++index)
    if (writer_of(context.plan.unit(index), context.options, context.link.size()) == context.link.rank())
      mine_.push_back(index);
}

void SliceWriter::finished(std::size_t index, const std::shared_ptr<FinishedSlice>& slice) {
  if (stopped_) return;
  const int writer = writer_of(context_.plan.unit(index), context_.options, context_.link.size());
  if (writer == context_.link.rank()) {
    units_[index].own = slice;
  } else if (!slice->encoded.empty()) {
    results_[index] = slice;
    context_.merge_memory.add(std::ssize(slice->encoded));
    context_.link.post(writer, ResultMessage{index, std::ssize(slice->encoded)});
  }
}

void SliceWriter::on(int owner, const ResultMessage& message) {
  if (stopped_) return;
  const auto index = static_cast<std::size_t>(message.unit);
  check<PeerError>(std::binary_search(mine_.begin(), mine_.end(), index) && message.bytes > 0,
                   "an owner offered a slice that this rank does not write");
  const PlannedUnit& unit = context_.plan.unit(index);
  const std::int64_t size = slice_of(unit, context_.options, owner, context_.link.size()).size();
  check<PeerError>(message.bytes <= result_bytes(unit, size, size, std::ssize(unit.clients)),
                   "an owner offered more bytes than its slice can have");
  units_[index].offered[owner] = message.bytes;
}

void SliceWriter::on(int writer, const TakeMessage& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  const auto held = results_.find(index);
  check<PeerError>(held != results_.end(), "a writer asked for a slice that is not here");
  context_.link.send(writer, Tag::result, held->second->encoded, [this, index, slice = held->second] {
    context_.merge_memory.subtract(std::ssize(slice->encoded));
    results_.erase(index);
  });
}

void SliceWriter::on(int, ReportsMessage&& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  check<PeerError>(std::binary_search(mine_.begin(), mine_.end(), index),
                   "the root sent reports to a rank that does not write the unit");
  units_[index].said = std::move(message.clients);
}

void SliceWriter::advance() {
  if (stopped_) return;
  for (std::size_t i = posted_; i < std::min(mine_.size(), written_ + kUnitsAtOnce); ++i) {
    const auto unit = units_.find(mine_[i]);
    if (unit != units_.end()) take(unit->first, unit->second);
  }
  while (posted_ < std::min(mine_.size(), written_ + kUnitsAtOnce)) {
    const auto unit = units_.find(mine_[posted_]);
    if (unit == units_.end() || !complete(unit->first, unit->second)) return;
    write(unit->first, std::move(unit->second));
    ++posted_;
  }
}

void SliceWriter::take(std::size_t index, Unit& unit) {
  for (const auto& [owner, bytes] : unit.offered) {
    auto& place = unit.arriving[owner];
    place.resize(static_cast<std::size_t>(bytes));
    context_.link.receive(owner, Tag::result, place, [this, index, owner = owner] {
      const auto found = units_.find(index);
      if (found == units_.end()) return;
      auto node = found->second.arriving.extract(owner);
      found->second.arrived.insert(std::move(node));
    });
    context_.link.post(owner, TakeMessage{index});
  }
  unit.offered.clear();
}

bool SliceWriter::complete(std::size_t index, const Unit& unit) const {
  if (!unit.said) return false;
  if (unit.said->empty()) return true;
  std::size_t parts = 0;
  for (int owner = 0; owner < context_.link.size(); ++owner)
    if (owner != context_.link.rank() &&
        slice_of(context_.plan.unit(index), context_.options, owner, context_.link.size()).size() > 0)
      ++parts;
  return unit.own != nullptr && unit.arrived.size() == parts;
}

void SliceWriter::write(std::size_t index, Unit&& unit) {
  const auto shared = std::make_shared<Unit>(std::move(unit));
  worker_.post([this, index, shared] {
    if (aborted_) return;
    call_back(index, *shared);
    std::string note;
    if (context_.options.spread_writing && context_.options.note) note = context_.options.note(index);
    context_.desk.post([this, index, note] {
      units_.erase(index);
      ++written_;
      context_.link.post(kRoot, WrittenMessage{index, note});
    });
  });
}

/// On the writer's worker.
void SliceWriter::call_back(std::size_t index, Unit& unit) {
  const ScopedTime time(context_.merging_nanoseconds);
  CompletedUnit completed;
  completed.index = index;
  aggregate::MergedMatrix matrix;
  if (!unit.said->empty()) {
    matrix = joined(index, unit);
    completed.finished = &matrix;
  }
  completed.reports = *unit.said;
  on_completed_(completed);
}

aggregate::MergedMatrix SliceWriter::joined(std::size_t index, Unit& unit) const {
  const PlannedUnit& planned = context_.plan.unit(index);
  const auto clients = static_cast<std::int64_t>(unit.said->size());
  const aggregate::MergedMatrix nothing = empty_slice(unit.own->matrix);
  std::vector<aggregate::MergedMatrix> slices;
  for (int owner = 0; owner < context_.link.size(); ++owner) {
    const auto part = unit.arrived.find(owner);
    if (owner == context_.link.rank()) {
      slices.push_back(std::move(unit.own->matrix));
    } else if (part != unit.arrived.end()) {
      const std::int64_t size = slice_of(planned, context_.options, owner, context_.link.size()).size();
      slices.push_back(decode_result(part->second, planned, size, clients));
      unit.arrived.erase(part);
    } else {
      slices.push_back(nothing);
    }
  }
  return aggregate::join_slices(planned.rows, planned.cols, std::move(slices));
}

}  // namespace fedspallm::comm
