// SPDX-License-Identifier: Apache-2.0
#include "member.hpp"

#include <algorithm>
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

void Member::deliver(std::size_t index, Delivery&& delivery) {
  if (stopping_) return;
  const std::uint32_t client = delivery.said.client;
  Deliveries& unit = held_[index];
  unit[client] = std::move(delivery);
  if (unit.size() < context_.plan.clients_on(index, context_.link.rank())) return;
  AnnounceMessage message{.unit = index, .clients = {}};
  for (const auto& [number, held] : unit) message.clients.push_back(held.said);
  context_.link.post(kRoot, message);
}

std::vector<wire::MatrixUpdate> Member::take(std::size_t index) {
  std::vector<wire::MatrixUpdate> updates;
  auto unit = held_.extract(index);
  if (unit.empty()) return updates;
  for (auto& [client, delivery] : unit.mapped()) updates.push_back(std::move(delivery.update));
  return updates;
}

void Member::on(const GrantMessage& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  const auto unit = held_.find(index);
  check<PeerError>(unit != held_.end() && unit->second.contains(message.client),
                   "the root asked for an update that is not here");
  const auto encoded = std::make_shared<const std::vector<std::byte>>(
      std::move(unit->second.extract(message.client).mapped().encoded));
  if (unit->second.empty()) held_.erase(unit);
  context_.link.send(kRoot, Tag::payload, *encoded,
                     [this, index, encoded] { context_.gate.taken(context_.plan.block_of(index)); });
}

void Member::on(const ScaleMessage& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  chain_->start(index, {message.q}, {message.diagonal_q}, take(index));
}

void Member::fetch(const std::shared_ptr<FetchTicket>& ticket) {
  if (stopping_) return;  // the verdict wakes the waiting thread
  asked_.push_back(ticket);
  context_.link.post(kRoot, FetchMessage{ticket->block});
}

void Member::on(const BlockMessage& message) {
  // By number: the root answers all wishes for one block together, so answers may overtake each other.
  const auto found = std::find_if(asked_.begin(), asked_.end(),
                                  [&](const auto& one) { return one->block == message.block; });
  check<PeerError>(found != asked_.end(), "the root sent a block that nobody asked for");
  const auto ticket = *found;
  asked_.erase(found);
  ticket->bytes.resize(static_cast<std::size_t>(message.bytes));
  context_.link.receive(kRoot, Tag::block, ticket->bytes,
                        [this, ticket] { context_.gate.change([&] { ticket->ready = true; }); });
}

void Member::finish() {
  if (!stopping_) context_.link.post(kRoot, FinishMessage());
}

void Member::fail(Failure failure) {
  if (own_failure_ || last_word_said_) return;
  own_failure_ = std::move(failure);
  if (!stopping_) context_.link.post(kRoot, FailedMessage{*own_failure_});
}

void Member::on(const DoneMessage&) {
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
