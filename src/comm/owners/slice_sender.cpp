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
  for (CutUpdate& update : updates) unit.updates.push_back(std::make_shared<CutUpdate>(std::move(update)));
  unit.left.resize(updates.size());
  offer_slices(index, [&](std::size_t position, int owner) {
    return unit.updates[position]->kept[static_cast<std::size_t>(owner)];
  });
}

void SliceSender::offer(std::size_t index, std::shared_ptr<const OwnUpdates> later) {
  Unit& unit = units_[index];
  unit.later = std::move(later);
  unit.left.resize(unit.later->later.size());
  offer_slices(index, [&](std::size_t position, int owner) { return unit.later->kept_of(position, owner); });
}

void SliceSender::offer_slices(std::size_t index, const std::function<std::int64_t(std::size_t, int)>& kept) {
  Unit& unit = units_[index];
  unit.unfinished = unit.left.size();
  std::size_t owners = 1;
  for (int owner = 0; owner < context_.link.size(); ++owner) {
    const bool travels =
        owner != context_.link.rank() &&
        slice_of(context_.plan.unit(index), context_.options, owner, context_.link.size()).size() > 0;
    if (!travels) continue;
    ++owners;
    OfferMessage message{.unit = index, .kept = {}};
    for (std::size_t position = 0; position < unit.left.size(); ++position)
      message.kept.push_back(kept(position, owner));
    context_.link.post(owner, std::move(message));
  }
  unit.left.assign(unit.left.size(), owners);
}

void SliceSender::on(int owner, const AskMessage& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  const auto found = units_.find(index);
  check<PeerError>(found != units_.end() && message.first + message.count <= found->second.left.size(),
                   "an owner asked for slices that were not offered");
  Unit& unit = found->second;
  for (std::size_t position = message.first; position < message.first + message.count; ++position) {
    check<PeerError>(unit.left[position] > 0, "an owner asked for slices that it has");
    if (unit.later != nullptr) {
      make_and_send(owner, index, position, unit.later);
      continue;
    }
    send_in_order([this, owner, index, position, update = unit.updates[position]] {
      const auto place = static_cast<std::size_t>(owner);
      const auto bytes = std::span<const std::byte>(update->encoded)
                             .subspan(update->begin[place], update->begin[place + 1] - update->begin[place]);
      context_.link.send(owner, Tag::slice, bytes,
                         [this, index, position, update] { gone(index, position); });
    });
  }
}

/// Owners' receives are posted in the order of their asks, so slices leave in that order, made or not.
void SliceSender::send_in_order(Action send) {
  if (making_ == 0)
    send_or_owe(std::move(send));
  else
    after_making([] {}, [this, send = std::move(send)] { send_or_owe(send); });
}

void SliceSender::send_or_owe(Action send) {
  if (owed_.empty())
    send();
  else
    owed_.push_back(std::move(send));
}

/// Runs `work` on the maker, and then, whether or not it throws, `done` here.
void SliceSender::after_making(Action work, Action done) {
  ++making_;
  maker_.post([this, work = std::move(work), done = std::move(done)] {
    struct Done {
      SliceSender& self;
      const Action& action;
      ~Done() {
        self.context_.desk.post([&sender = self, action = action] {
          --sender.making_;
          action();
        });
      }
    } const at_the_end{*this, done};
    work();
  });
}

void SliceSender::make_and_send(int owner, std::size_t index, std::size_t position,
                                const std::shared_ptr<const OwnUpdates>& later) {
  const auto bytes = std::make_shared<std::vector<std::byte>>();
  const Action make = [this, owner, index, position, later, bytes] {
    if (aborted_) return;
    wire::MatrixUpdate part;
    part.unit = context_.plan.unit(index).id;
    part.client = later->later[position].client;
    part.matrix = make_slice(context_, index, *later, position, owner);
    std::vector<std::byte> encoded = wire::encode(part);
    if (context_.options.before_send) context_.options.before_send(encoded);
    *bytes = std::move(encoded);
  };
  after_making(make, [this, owner, index, position, later, bytes] {
    const bool made = !bytes->empty();
    const PlannedUnit& unit = context_.plan.unit(index);
    const std::int64_t size = slice_of(unit, context_.options, owner, context_.link.size()).size();
    const std::int64_t kept = later->kept_of(position, owner);
    bytes->resize(static_cast<std::size_t>(wire::encoded_bytes(size, 1, kept, unit.dtype, false)));
    const Action send = [this, owner, index, position, bytes] {
      context_.link.send(owner, Tag::slice, *bytes,
                         [this, index, position, bytes] { gone(index, position); });
    };
    if (made || released_)
      send_or_owe(send);
    else
      owed_.push_back(send);
  });
}

void SliceSender::release() {
  released_ = true;
  for (const Action& send : std::exchange(owed_, {})) send();
}

void SliceSender::own_added(std::size_t index) {
  const auto unit = units_.find(index);
  const std::size_t count = unit == units_.end() ? 0 : unit->second.left.size();
  for (std::size_t position = 0; position < count; ++position) gone(index, position);
}

std::vector<std::shared_ptr<const CutUpdate>> SliceSender::updates(std::size_t index) const {
  const auto unit = units_.find(index);
  if (unit == units_.end()) return {};
  return {unit->second.updates.begin(), unit->second.updates.end()};
}

std::shared_ptr<const OwnUpdates> SliceSender::later(std::size_t index) const {
  const auto unit = units_.find(index);
  return unit == units_.end() ? nullptr : unit->second.later;
}

/// One owner more has the slice; with the last one the update's room in the window is free.
void SliceSender::gone(std::size_t index, std::size_t position) {
  const auto found = units_.find(index);
  if (found == units_.end()) return;
  Unit& unit = found->second;
  if (--unit.left[position] > 0) return;
  if (unit.later == nullptr) unit.updates[position].reset();
  context_.gate.taken(context_.plan.block_of(index));
  if (--unit.unfinished > 0) return;
  const bool later = unit.later != nullptr;
  units_.erase(found);
  if (later) on_through_(index);
}

}  // namespace fedspallm::comm
