// SPDX-License-Identifier: Apache-2.0
#include "slice_sender.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::comm {

CutUpdate cut_update(const PlannedUnit& unit, const ExchangeOptions& options, wire::MatrixUpdate&& update,
                     int owner, int owners) {
  CutUpdate cut;
  cut.client = update.client;
  cut.begin.push_back(0);
  cut.encoded.reserve(static_cast<std::size_t>(
      wire::encoded_bytes(unit.rows, unit.cols, update.matrix.kept, unit.dtype, false) +
      owners * static_cast<std::int64_t>(wire::kHeaderBytes)));
  std::int64_t value = 0;
  for (int other = 0; other < owners; ++other) {
    const aggregate::Slice slice = slice_of(unit, options, other, owners);
    wire::MatrixUpdate part;
    part.unit = unit.id;
    part.client = update.client;
    part.matrix = wire::slice(update.matrix, slice.begin, slice.end, value);
    cut.kept.push_back(part.matrix.kept);
    if (other == owner) {
      cut.own = std::move(part.matrix);
    } else if (slice.size() > 0) {
      const std::size_t begin = cut.encoded.size();
      const std::vector<std::byte> bytes = wire::encode(part);
      cut.encoded.insert(cut.encoded.end(), bytes.begin(), bytes.end());
      if (options.before_send) options.before_send(std::span(cut.encoded).subspan(begin));
    }
    cut.begin.push_back(cut.encoded.size());
  }
  cut.diagonal = std::move(update.hessian_diagonal);
  return cut;
}

void SliceSender::offer(std::size_t index, std::vector<CutUpdate>&& updates) {
  if (updates.empty()) return;
  Unit& unit = units_[index];
  for (CutUpdate& update : updates) {
    const auto differs = [](std::size_t a, std::size_t b) { return a != b; };
    std::size_t owners = 1;
    for (std::size_t i = 0; i + 1 < update.begin.size(); ++i)
      owners += differs(update.begin[i], update.begin[i + 1]) ? 1U : 0U;
    unit.left.push_back(owners);
    unit.updates.push_back(std::make_shared<CutUpdate>(std::move(update)));
  }
  for (int owner = 0; owner < context_.link.size(); ++owner) {
    const bool travels =
        owner != context_.link.rank() &&
        slice_of(context_.plan.unit(index), context_.options, owner, context_.link.size()).size() > 0;
    if (!travels) continue;
    OfferMessage message{.unit = index, .kept = {}};
    for (const auto& one : unit.updates) message.kept.push_back(one->kept[static_cast<std::size_t>(owner)]);
    context_.link.post(owner, std::move(message));
  }
}

void SliceSender::on(int owner, const AskMessage& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  const auto unit = units_.find(index);
  check<PeerError>(unit != units_.end() && message.first + message.count <= unit->second.updates.size(),
                   "an owner asked for slices that were not offered");
  for (std::size_t position = message.first; position < message.first + message.count; ++position) {
    const std::shared_ptr<CutUpdate> update = unit->second.updates[position];
    check<PeerError>(update != nullptr, "an owner asked for slices that it has");
    const auto place = static_cast<std::size_t>(owner);
    const auto bytes = std::span<const std::byte>(update->encoded)
                           .subspan(update->begin[place], update->begin[place + 1] - update->begin[place]);
    context_.link.send(owner, Tag::slice, bytes, [this, index, position, update] { gone(index, position); });
  }
}

void SliceSender::own_added(std::size_t index) {
  const std::size_t count = updates(index).size();
  for (std::size_t position = 0; position < count; ++position) gone(index, position);
}

std::vector<std::shared_ptr<const CutUpdate>> SliceSender::updates(std::size_t index) const {
  const auto unit = units_.find(index);
  if (unit == units_.end()) return {};
  return {unit->second.updates.begin(), unit->second.updates.end()};
}

/// One owner more has the slice; with the last one the update's room in the window is free.
void SliceSender::gone(std::size_t index, std::size_t position) {
  const auto found = units_.find(index);
  if (found == units_.end()) return;
  Unit& unit = found->second;
  if (--unit.left[position] > 0) return;
  unit.updates[position].reset();
  context_.gate.taken(context_.plan.block_of(index));
  const bool all =
      std::all_of(unit.left.begin(), unit.left.end(), [](std::size_t left) { return left == 0; });
  if (all) units_.erase(found);
}

}  // namespace fedspallm::comm
