// SPDX-License-Identifier: Apache-2.0
#include "member.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

namespace fedspallm::comm {

namespace {
constexpr int kRoot = 0;
}

Member::Member(const RankContext& context, Worker& merge_worker, Chain::OnReduced on_reduced)
    : context_(context) {
  if (context.options.transport == Transport::reduce) {
    chain_ = std::make_unique<Chain>(context, merge_worker, std::move(on_reduced));
  }
}

bool Member::is_dropped(std::uint32_t client, std::size_t index) const {
  const auto dropped = dropped_.find(client);
  return dropped != dropped_.end() && index >= dropped->second;
}

void Member::deliver(std::size_t index, Delivery&& delivery) {
  if (stopping_) return;
  const std::uint32_t client = delivery.said.client;
  if (is_dropped(client, index)) {  // the root did not wait for it
    context_.gate.taken(context_.plan.block_of(index));
    return;
  }
  const Announcement said = delivery.said;
  held_[index][client] = std::move(delivery);
  if (context_.options.deadline_seconds > 0) {  // each client is punctual on its own
    context_.link.post(kRoot, AnnounceMessage{.unit = index, .clients = {said}});
  } else {
    announce_if_complete(index);
  }
}

/// All of this rank's clients that take part have delivered the unit.
void Member::announce_if_complete(std::size_t index) {
  const Deliveries& unit = held_[index];
  const auto& clients = context_.plan.unit(index).clients;
  const bool complete = std::all_of(clients.begin(), clients.end(), [&](std::uint32_t client) {
    return context_.plan.rank_of(client) != context_.link.rank() || unit.contains(client) ||
           is_dropped(client, index);
  });
  if (!complete) return;
  AnnounceMessage message{.unit = index, .clients = {}};
  for (const auto& [number, held] : unit) message.clients.push_back(held.said);
  context_.link.post(kRoot, message);
}

Delivery Member::take(std::size_t index, std::uint32_t client) {
  const auto unit = held_.find(index);
  check<PeerError>(unit != held_.end() && unit->second.contains(client),
                   "the root asked for an update that is not here");
  Delivery delivery = std::move(unit->second.extract(client).mapped());
  if (unit->second.empty()) held_.erase(unit);
  return delivery;
}

void Member::on(const GrantMessage& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  const auto encoded = std::make_shared<const std::vector<std::byte>>(take(index, message.client).encoded);
  context_.link.send(kRoot, Tag::payload, *encoded,
                     [this, index, encoded] { context_.gate.taken(context_.plan.block_of(index)); });
}

void Member::on(const ScaleMessage& message) {
  std::vector<wire::MatrixUpdate> updates;
  auto unit = held_.extract(static_cast<std::size_t>(message.unit));
  if (!unit.empty()) {
    for (auto& [client, delivery] : unit.mapped()) updates.push_back(std::move(delivery.update));
  }
  chain_->start(message, std::move(updates));
}

void Member::drop(DropMessage&& message) {
  if (!speaks()) return;
  const std::size_t first = context_.plan.first_unit_of(message.block);
  if (!dropped_.try_emplace(message.client, first).second) return;  // the root was faster
  context_.link.post(kRoot, std::move(message));
  if (context_.options.deadline_seconds > 0) return;  // the others have spoken for themselves
  std::vector<std::size_t> waiting;                   // perhaps for this client only
  for (auto unit = held_.lower_bound(first); unit != held_.end(); ++unit) waiting.push_back(unit->first);
  for (const std::size_t index : waiting) announce_if_complete(index);
}

void Member::on(const LateMessage& message) {
  const auto first = static_cast<std::size_t>(message.unit);
  context_.due.drop_late(message.client);
  if (!dropped_.try_emplace(message.client, first).second) return;
  for (auto unit = held_.lower_bound(first); unit != held_.end();) {
    if (unit->second.erase(message.client) > 0) context_.gate.taken(context_.plan.block_of(unit->first));
    unit = unit->second.empty() ? held_.erase(unit) : std::next(unit);
  }
}

void Member::on(const DurableMessage& message) {
  const auto units = static_cast<std::size_t>(message.units);
  check<PeerError>(units <= context_.plan.size(), "the root has merged more than the plan holds");
  context_.facts.set_durable_block(units < context_.plan.size() ? context_.plan.unit(units).id.block
                                                                : std::numeric_limits<std::uint32_t>::max());
  context_.gate.set_durable(context_.plan.block_of(units));
}

void Member::wish(Boundary what) {
  if (speaks()) context_.link.post(kRoot, WishMessage{what});
}

void Member::on(const HoldMessage&) {
  if (!speaks()) return;
  const std::uint32_t next = context_.gate.with_boundaries([](Boundaries& all) { return all.hold(); });
  context_.link.post(kRoot, BegunMessage{next});
}

void Member::on(const DecisionMessage& message) {
  context_.gate.with_boundaries([&](Boundaries& all) { all.decide(message.what, message.block); });
}

void Member::fetch(const std::shared_ptr<FetchTicket>& ticket) {
  if (!speaks()) return;  // the verdict wakes the waiting thread
  asked_.push_back(ticket);
  context_.link.post(kRoot, FetchMessage{ticket->block});
}

void Member::on(const BlockMessage& message) {
  // By number: the root answers all wishes for one block together, so answers may overtake each other.
  const auto found = std::find_if(asked_.begin(), asked_.end(),
                                  [&](const auto& one) { return one->block == message.block; });
  check<PeerError>(found != asked_.end(), "the root sent a block that nobody asked for");
  check<PeerError>(message.bytes >= 0, "the root announced a block of less than no bytes");
  const auto ticket = *found;
  asked_.erase(found);
  ticket->bytes.resize(static_cast<std::size_t>(message.bytes));
  context_.link.receive(kRoot, Tag::block, ticket->bytes,
                        [this, ticket] { context_.gate.change([&] { ticket->ready = true; }); });
}

void Member::finish() {
  if (stopping_) return;
  const bool told =
      context_.gate.with_boundaries([](const Boundaries& all) { return all.told_to_stop().has_value(); });
  context_.link.post(kRoot, FinishMessage{told});
}

void Member::fail(Failure failure) {
  if (own_failure_ || last_word_said_) return;
  own_failure_ = std::move(failure);
  if (!stopping_) context_.link.post(kRoot, FailedMessage{*own_failure_});
}

void Member::on(const DoneMessage& message) {
  if (message.stopped) context_.facts.set_stopped_at(message.block);
  last_word_said_ = true;
  context_.link.post(kRoot, ByeMessage());
  over_ = true;
}

void Member::on(const StopMessage&) {
  stopping_ = true;
  held_.clear();
}

void Member::on(VerdictMessage&& message) {
  verdict_ = std::move(message.failure);
  over_ = true;
}

bool Member::advance() {
  const bool progressed = chain_ != nullptr && chain_->advance();
  // What was granted or started before the stop completes, because its receiver was ready before it was asked
  // for.
  const bool drained = context_.link.idle() && (chain_ == nullptr || chain_->empty());
  if (!stopping_ || last_word_said_ || !drained) return progressed;
  last_word_said_ = true;
  context_.link.post(kRoot, StoppedMessage{own_failure_});
  return true;
}

}  // namespace fedspallm::comm
