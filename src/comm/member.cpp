// SPDX-License-Identifier: Apache-2.0
#include "member.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

namespace fedspallm::comm {

namespace {
constexpr int kRoot = 0;
/// Units of submit_later() that are announced and not yet wholly asked for: one is being merged, one is next.
constexpr std::size_t kAnnouncedAtOnce = 2;
/// Owners: units that are announced and of which not every owner has its slices.
constexpr std::size_t kAnnouncedToOwners = 4;
}  // namespace

Member::Member(const RankContext& context, Worker& merge_worker, Chain::OnReduced on_reduced, Owners* owners)
    : context_(context), merge_worker_(merge_worker), owners_(owners) {
  if (context.options.transport == Transport::reduce) {
    chain_ = std::make_unique<Chain>(context, merge_worker, std::move(on_reduced));
  }
  if (context.options.topology == Topology::nodes) {
    nodes_ = std::make_unique<NodeMerge>(context, merge_worker, *chain_,
                                         [this](std::size_t index) { return take_all(index); });
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
  held(index).deliveries[client] = std::move(delivery);
  if (context_.options.deadline_seconds > 0) {  // each client is punctual on its own
    context_.link.post(kRoot, AnnounceMessage{.unit = index, .clients = {said}});
  } else {
    announce_if_complete(index);
  }
}

/// Created with the number of clients to wait for.
Member::Held& Member::held(std::size_t index) {
  const auto [found, is_new] = held_.try_emplace(index);
  if (is_new) {
    for (const std::uint32_t client : context_.plan.unit(index).clients)
      found->second.expected +=
          context_.plan.rank_of(client) == context_.link.rank() && !is_dropped(client, index) ? 1U : 0U;
  }
  return found->second;
}

/// All of this rank's clients that take part have delivered the unit.
void Member::announce_if_complete(std::size_t index) {
  const Held& unit = held_.at(index);
  if (unit.deliveries.size() != unit.expected) return;
  AnnounceMessage message{.unit = index, .clients = {}};
  for (const auto& [number, held] : unit.deliveries) message.clients.push_back(held.said);
  context_.link.post(kRoot, message);
}

void Member::deliver_later(std::size_t index, OwnUpdates&& later) {
  if (stopping_ || later.later.empty()) return;
  const std::size_t clients = later.later.size();
  later_[index] = {std::make_shared<const OwnUpdates>(std::move(later)), clients};
  unannounced_.push_back(index);
  announce_later();
}

/// The root keeps what is announced of every client until the unit is merged, so a few units must do.
void Member::announce_later() {
  const std::size_t most = owners_ != nullptr ? kAnnouncedToOwners : kAnnouncedAtOnce;
  while (!unannounced_.empty() && later_.size() - unannounced_.size() < most) {
    const std::size_t index = unannounced_.front();
    unannounced_.pop_front();
    context_.link.post(kRoot, AnnounceMessage{.unit = index, .clients = later_.at(index).updates->later});
  }
}

std::shared_ptr<const OwnUpdates> Member::later(std::size_t index) const {
  const auto found = later_.find(index);
  return found == later_.end() ? nullptr : found->second.updates;
}

void Member::later_through(std::size_t index) {
  later_.erase(index);
  announce_later();
}

Delivery Member::take(std::size_t index, std::uint32_t client) {
  const auto unit = held_.find(index);
  check<PeerError>(unit != held_.end() && unit->second.deliveries.contains(client),
                   "the root asked for an update that is not here");
  Delivery delivery = std::move(unit->second.deliveries.extract(client).mapped());
  if (unit->second.deliveries.empty()) held_.erase(unit);
  return delivery;
}

OwnUpdates Member::take_own(std::size_t index, std::span<const Announcement> said) {
  if (auto later = later_.extract(index); !later.empty()) {
    announce_later();
    return *later.mapped().updates;
  }
  OwnUpdates own;
  for (const Announcement& one : said)
    if (context_.plan.rank_of(one.client) == context_.link.rank())
      own.ready.push_back(take(index, one.client).update);
  return own;
}

/// The root's receives are posted in the order of its grants, so payloads leave in that order. After a
/// failure they are owed: the root gets as many bytes as it waits for once it knows that all is over.
void Member::send_update(std::size_t index, const Encoded& encoded) {
  const auto send = [this, index, encoded] {
    context_.link.send(kRoot, Tag::payload, *encoded,
                       [this, index, encoded] { context_.gate.taken(context_.plan.block_of(index)); });
  };
  if (owed_.empty())
    send();
  else
    owed_.push_back(send);
}

void Member::on(const GrantMessage& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  if (context_.device != nullptr) return send_from_device(index, message.client);
  if (later_.contains(index)) {
    make_and_send(index, message.client);
    return;
  }
  const Encoded encoded = std::make_shared<const std::vector<std::byte>>(take(index, message.client).encoded);
  if (making_ == 0)
    send_update(index, encoded);
  else
    after_making([] {}, [this, index, encoded] { send_update(index, encoded); });
}

/// Runs `work` beside the communication, one after the other, and then `done` on the communication thread.
void Member::after_making(std::function<void()> work, std::function<void()> done) {
  ++making_;
  merge_worker_.post([this, work = std::move(work), done = std::move(done)] {
    work();
    context_.desk.post([this, done] {
      --making_;
      done();
    });
  });
}

void Member::make_and_send(std::size_t index, std::uint32_t client) {
  const auto unit = later_.find(index);
  const std::shared_ptr<const OwnUpdates> updates = unit->second.updates;
  const auto found =
      std::lower_bound(updates->later.begin(), updates->later.end(), client,
                       [](const UpdateSummary& one, std::uint32_t wanted) { return one.client < wanted; });
  check<PeerError>(found != updates->later.end() && found->client == client,
                   "the root asked for an update that is not here");
  if (--unit->second.left == 0) {
    later_.erase(unit);
    announce_later();
  }
  const UpdateSummary& said = *found;  // lives as long as `updates`
  const auto encoded = std::make_shared<std::vector<std::byte>>();
  after_making(
      [this, index, &said, updates, encoded] {
        try {
          *encoded = wire::encode(make_summarized(context_, index, said, updates->make));
          if (context_.options.before_send) context_.options.before_send(*encoded);
        } catch (...) {
          encoded->clear();
          context_.desk.post([this, failure = current_failure(context_.rank_name)] { fail(failure); });
        }
      },
      [this, index, &said, updates, encoded] { made(index, said, encoded); });
}

void Member::made(std::size_t index, const UpdateSummary& said, const Encoded& encoded) {
  if (!encoded->empty()) {
    send_update(index, encoded);
    return;
  }
  const PlannedUnit& unit = context_.plan.unit(index);
  const auto filler = std::make_shared<const std::vector<std::byte>>(static_cast<std::size_t>(
      wire::encoded_bytes(unit.rows, unit.cols, said.kept, unit.dtype, unit.with_diagonal)));
  if (stopping_)
    send_update(index, filler);
  else
    owed_.emplace_back([this, index, filler] { send_update(index, filler); });
}

void Member::send_from_device(std::size_t index, std::uint32_t client) {
  const auto update = std::make_shared<const Delivery>(take(index, client));
  if (context_.link.rank() != kRoot) {
    context_.counters.bytes_sent += std::ssize(update->on_device);
    ++context_.counters.messages_sent;
  }
  context_.device->link->send(kRoot, update->on_device,
                              [this, index, update] { context_.gate.taken(context_.plan.block_of(index)); });
}

/// All updates of the unit that this rank's clients have handed over; once.
OwnUpdates Member::take_all(std::size_t index) {
  OwnUpdates own;
  if (auto unit = held_.extract(index); !unit.empty()) {
    for (auto& [client, delivery] : unit.mapped().deliveries) own.ready.push_back(std::move(delivery.update));
  } else if (auto later = later_.extract(index); !later.empty()) {
    own = *later.mapped().updates;
    announce_later();
  }
  return own;
}

void Member::on(const ScaleMessage& message) {
  check<PeerError>(chain_ != nullptr, "the root started a chain where none is expected");
  if (nodes_ != nullptr)
    nodes_->on(message);
  else
    chain_->start(message, take_all(static_cast<std::size_t>(message.unit)));
}

void Member::on(const AddMessage& message) {
  check<PeerError>(nodes_ != nullptr, "a message between ranks of a node came in another topology");
  nodes_->on(message);
}

void Member::on(const AddedMessage& message) {
  check<PeerError>(nodes_ != nullptr, "a message between ranks of a node came in another topology");
  nodes_->on(message);
}

void Member::abort() {
  if (nodes_ != nullptr) nodes_->abort();
}

void Member::drop(DropMessage&& message) {
  if (!speaks()) return;
  const std::uint32_t client = message.client;
  const std::size_t first = context_.plan.first_unit_of(message.block);
  if (!dropped_.try_emplace(client, first).second) return;  // the root was faster
  context_.link.post(kRoot, std::move(message));
  if (context_.options.deadline_seconds > 0) return;  // the others have spoken for themselves
  for (auto unit = held_.lower_bound(first); unit != held_.end(); ++unit) {
    if (!context_.plan.unit(unit->first).clients.contains(client)) continue;
    --unit->second.expected;  // perhaps it was the last one to be waited for
    announce_if_complete(unit->first);
  }
}

void Member::on(const LateMessage& message) {
  const auto first = static_cast<std::size_t>(message.unit);
  context_.due.drop_late(message.client);
  if (!dropped_.try_emplace(message.client, first).second) return;
  for (auto unit = held_.lower_bound(first); unit != held_.end();) {
    if (unit->second.deliveries.erase(message.client) > 0)
      context_.gate.taken(context_.plan.block_of(unit->first));
    unit = unit->second.deliveries.empty() ? held_.erase(unit) : std::next(unit);
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
  done_ = true;
}

void Member::on(const StopMessage&) {
  stopping_ = true;
  held_.clear();
  later_.clear();
  unannounced_.clear();
  const auto owed = std::exchange(owed_, {});
  for (const auto& send : owed) send();
  if (owners_ != nullptr) owners_->stop();
  abort();
}

void Member::on(VerdictMessage&& message) {
  verdict_ = std::move(message.failure);
  over_ = true;
}

bool Member::advance() {
  if (nodes_ != nullptr) nodes_->advance();
  const bool progressed = chain_ != nullptr && chain_->advance();
  if (done_ && !last_word_said_ && (owners_ == nullptr || owners_->empty())) {
    last_word_said_ = true;
    context_.link.post(kRoot, ByeMessage());
    over_ = true;
    return true;
  }
  // What was granted or started before the stop completes, because its receiver was ready before it was asked
  // for.
  const bool drained = context_.idle() && making_ == 0 && (chain_ == nullptr || chain_->empty()) &&
                       (owners_ == nullptr || owners_->quiet());
  if (!stopping_ || last_word_said_ || !drained) return progressed;
  last_word_said_ = true;
  context_.link.post(kRoot, StoppedMessage{own_failure_});
  return true;
}

}  // namespace fedspallm::comm
