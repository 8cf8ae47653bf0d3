// SPDX-License-Identifier: Apache-2.0
#include "coordinator.hpp"

#include "fedspallm/wire/device.hpp"

#include "owners/slice_plan.hpp"
#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

namespace fedspallm::comm {

namespace {

std::int64_t ring_bytes(const RankContext& context) {
  if (context.options.transport == Transport::reduce || context.options.topology != Topology::root) return 0;
  const std::int64_t largest =
      context.device != nullptr ? context.plan.largest_on_device() : context.plan.largest_update();
  return kUpdatesAtOnce * (largest + 64);  // each piece begins at a cache line, on devices where it must
}

/// Where the ring lies: the device's memory for what comes from devices.
ReceiveRing::Allocate ring_memory(const RankContext& context) {
  if (context.device == nullptr) return {};
  return [&port = *context.device->port](std::int64_t bytes) {
    return port.allocate(std::max<std::int64_t>(1, bytes));
  };
}

}  // namespace

Coordinator::Coordinator(const RankContext& context, Worker& merge_worker, Worker& provider_worker,
                         Exchange::OnCompleted on_completed, Provide provide, TakeOwn take_own)
    : context_(context),
      merge_worker_(merge_worker),
      provider_worker_(provider_worker),
      provide_(std::move(provide)),
      take_own_(std::move(take_own)),
      root_merge_(context, std::move(on_completed)),
      ring_(ring_bytes(context), ring_memory(context)),
      roster_(context.plan),
      vote_(context.link.size()),
      end_(context.plan.size()) {
  context_.merge_memory.add(ring_.capacity());
}

Coordinator::~Coordinator() = default;

// --- merging
// ---------------------------------------------------------------------------------------------------------

void Coordinator::on(int rank, AnnounceMessage&& message) {
  if (state_ != State::running) return;
  const auto index = static_cast<std::size_t>(message.unit);
  roster_.announce(rank, index, std::move(message.clients));
  check<PeerError>(index < end_, "a rank delivered a block that comes after the agreed stop");
}

void Coordinator::advance() {
  if (state_ != State::running) return;
  if (context_.options.topology == Topology::owners) {
    start_slices();
  } else if (context_.options.transport == Transport::reduce) {
    start_chains();
  } else {
    grant_next();
  }
  serve_blocks();
  check_deadline();
  if (state_ == State::running && finished_ranks_ == context_.link.size() && completed_ == end_) {
    state_ = State::closing;
    // A stop that nobody met and that left nothing out was none.
    const bool stopped = somebody_stopped_ || end_ < context_.plan.size();
    post_to_all(DoneMessage{stopped, stopped ? stop_.value() : 0});
  }
}

void Coordinator::grant_next() {
  while (const auto ready = roster_.ready(next_)) {
    if (ready->said.empty()) complete_uncovered(ready);
    if (next_client_ == 0 && !own_taken_ && context_.device == nullptr) merge_own(ready);
    for (; next_client_ < ready->said.size(); ++next_client_) {
      const Announcement& said = ready->said[next_client_];
      const bool travels =
          context_.plan.rank_of(said.client) != context_.link.rank() || context_.device != nullptr;
      if (travels && !grant(ready, said)) return;
    }
    ++next_;
    next_client_ = 0;
    own_taken_ = false;
  }
}

/// The updates of the root's own clients need no message: few passes over the tiles add them all.
void Coordinator::merge_own(const std::shared_ptr<const ReadyUnit>& ready) {
  own_taken_ = true;
  const auto own = std::make_shared<OwnUpdates>(take_own_(*ready));
  const std::size_t clients = own->size();
  if (clients == 0) return;
  merge_in_order(ready->index, clients, adding(ready, [this, ready, own, clients] {
                   bool all_in = false;
                   add_in_passes(context_, ready->index, *own, [&](const auto& updates) {
                     all_in = root_merge_.add(*ready, updates);
                     return !discarding_;
                   });
                   context_.gate.taken(context_.plan.block_of(ready->index), clients);
                   return all_in;
                 }));
}

/// False while there is no room for the update.
bool Coordinator::grant(const std::shared_ptr<const ReadyUnit>& ready, const Announcement& said) {
  const std::size_t index = ready->index;
  const int rank = context_.plan.rank_of(said.client);
  const PlannedUnit& unit = context_.plan.unit(index);
  const std::int64_t capacity = ring_.capacity();
  const bool device = context_.device != nullptr;
  const auto piece = ring_.take(
      device ? wire::device_layout(unit.rows, unit.cols, said.kept, unit.dtype, unit.with_diagonal).bytes
             : wire::encoded_bytes(unit.rows, unit.cols, said.kept, unit.dtype, unit.with_diagonal));
  context_.merge_memory.add(ring_.capacity() - capacity);
  if (!piece) return false;
  const auto arrived = [this, ready, said, device, piece = *piece] {
    const Worker::Task add = adding(ready, [this, ready, said, device, piece] {
      return device ? root_merge_.add_on_device(*ready, said, piece.bytes)
                    : root_merge_.add_encoded(*ready, said, piece.bytes);
    });
    merge_in_order(ready->index, 1, [this, add, piece] {
      struct GiveBack {  // also when the addition throws
        Coordinator& self;
        std::uint64_t id;
        ~GiveBack() {
          self.context_.desk.post([&ring = self.ring_, id = id] { ring.give_back(id); });
        }
      } const give_back{*this, piece.id};
      add();
    });
  };
  if (device) {
    if (rank != context_.link.rank()) context_.counters.bytes_received += std::ssize(piece->bytes);
    context_.device->link->receive(rank, piece->bytes, arrived);
  } else {
    context_.link.receive(rank, Tag::payload, piece->bytes, arrived);
  }
  context_.link.post(rank, GrantMessage{index, said.client});
  return true;
}

/// A task for the merge thread that adds one update and tells when that completed the unit.
Worker::Task Coordinator::adding(const std::shared_ptr<const ReadyUnit>& ready,
                                 const std::function<bool()>& add) {
  return [this, ready, add] {
    if (discarding_) return;
    const ScopedTime time(context_.merging_nanoseconds);
    if (!add()) return;
    root_merge_.complete_added(*ready);  // what was added is freed by now
    context_.desk.post([this, index = ready->index] { unit_done(index); });
  };
}

/// All its clients were dropped: the callback gets no merge, in its turn.
void Coordinator::complete_uncovered(const std::shared_ptr<const ReadyUnit>& ready) {
  const Worker::Task task = [this, ready] {
    if (discarding_) return;
    root_merge_.complete(*ready, nullptr);
    context_.desk.post([this, index = ready->index] { unit_done(index); });
  };
  if (context_.options.transport == Transport::reduce) {
    merge_worker_.post(task);
  } else {
    merge_in_order(ready->index, 1, task);
  }
}

/// The callback has returned. Every rank hears of each block that is through.
void Coordinator::unit_done(std::size_t index) {
  roster_.completed(index);
  ++completed_;
  if (state_ != State::running || context_.plan.block_of(completed_) == context_.plan.block_of(index)) return;
  post_to_all(DurableMessage{completed_});
}

/// Units reach the merge thread in plan order, so that it holds one merge state; within a unit updates come
/// as they arrive.
void Coordinator::merge_in_order(std::size_t index, std::size_t clients, Worker::Task task) {
  if (index != merging_) {
    early_[index].emplace_back(clients, std::move(task));
    return;
  }
  merge_worker_.post(std::move(task));
  merging_posted_ += clients;
  for (;;) {
    const auto ready = roster_.ready(merging_);
    if (ready == nullptr || merging_posted_ < std::max<std::size_t>(1, ready->said.size())) return;
    ++merging_;
    merging_posted_ = 0;
    auto early = early_.extract(merging_);
    if (early.empty()) continue;
    for (auto& [number, waiting] : early.mapped()) {
      merging_posted_ += number;
      merge_worker_.post(std::move(waiting));
    }
  }
}

void Coordinator::start_chains() {
  while (next_ < completed_ + kChainsAtOnce) {
    const auto ready = roster_.ready(next_);
    if (ready == nullptr) return;
    if (ready->said.empty()) {
      if (completed_ < next_) return;  // so that it is called back after the chains before it
      complete_uncovered(ready);
    } else {
      start_chain(*ready);
    }
    ++next_;
  }
}

/// Along the ranks with clients that take part, or the leaders of their nodes, down to the root.
void Coordinator::start_chain(const ReadyUnit& ready) {
  const bool nodes = context_.options.topology == Topology::nodes;
  std::map<int, std::set<int>> chain = {{context_.link.rank(), {}}};  // with the ranks that add up there
  for (const Announcement& said : ready.said) {
    const int rank = context_.plan.rank_of(said.client);
    chain[nodes ? context_.options.leaders[static_cast<std::size_t>(rank)] : rank].insert(rank);
  }
  for (auto place = chain.begin(); place != chain.end(); ++place) {
    const auto above = std::next(place);
    ScaleMessage message{.unit = ready.index,
                         .q = ready.scale.q,
                         .diagonal_q = ready.diagonal_scale.q,
                         .upstream = above == chain.end() ? -1 : above->first,
                         .downstream = place == chain.begin() ? -1 : std::prev(place)->first,
                         .adders = {}};
    if (nodes) message.adders.assign(place->second.begin(), place->second.end());
    context_.link.post(place->first, message);
  }
}

/// Owners merge the next block while the one before it is being written.
void Coordinator::start_slices() {
  while (context_.plan.block_of(next_) <= context_.plan.block_of(completed_) + 1) {
    const auto ready = roster_.ready(next_);
    if (ready == nullptr) return;
    const PlannedUnit& unit = context_.plan.unit(next_);
    context_.link.post(writer_of(unit, context_.options, context_.link.size()),
                       ReportsMessage{next_, ready->said});
    if (!ready->said.empty()) {
      SliceMessage message{next_, ready->scale.q, ready->diagonal_scale.q, {}};
      auto said = ready->said.begin();  // both lists are ascending
      for (const std::uint32_t client : unit.clients) {
        if (said != ready->said.end() && said->client == client)
          ++said;
        else
          message.absent.push_back(client);
      }
      post_to_all(message);
    }
    ++next_;
  }
}

void Coordinator::on(int rank, WrittenMessage&& message) {
  if (state_ != State::running) return;
  const auto index = static_cast<std::size_t>(message.unit);
  check<PeerError>(index < next_ && index >= completed_ &&
                       writer_of(context_.plan.unit(index), context_.options, context_.link.size()) == rank,
                   "a rank has written a unit that is not its own");
  if (!context_.options.spread_writing || !context_.options.on_note) {
    written(index);
    return;
  }
  provider_worker_.post([this, index, note = std::move(message.note)] {
    if (discarding_) return;
    context_.options.on_note(index, note);
    context_.desk.post([this, index] { written(index); });
  });
}

/// Writers may overtake each other; units count as through in plan order.
void Coordinator::written(std::size_t index) {
  if (state_ != State::running) return;
  written_.insert(index);
  while (written_.erase(completed_) > 0) unit_done(completed_);
}

void Coordinator::on_reduced(std::size_t index, const std::shared_ptr<CountedMerge>& merge) {
  const auto ready = roster_.ready(index);
  if (ready == nullptr || merge == nullptr) return;
  merge_worker_.post([this, ready, merge] {
    if (discarding_) return;
    const ScopedTime time(context_.merging_nanoseconds);
    root_merge_.complete(*ready, &merge->merge());
    context_.desk.post([this, index = ready->index] { unit_done(index); });
  });
}

// --- clients that fail or are late
// -----------------------------------------------------------------------------------

void Coordinator::on(int rank, DropMessage&& message) {
  if (state_ != State::running) return;
  check<PeerError>(message.client < context_.plan.plan().rank_of_client.size() &&
                       context_.plan.rank_of(message.client) == rank,
                   "a rank dropped a client that is not its own");
  drop({.client = message.client, .block = message.block, .reason = std::move(message.reason)},
       context_.plan.first_unit_of(message.block));
}

void Coordinator::drop(Dropped&& dropped, std::size_t first) {
  if (roster_.drop(dropped.client, first)) context_.facts.add_dropped(std::move(dropped));
}

/// The clock runs while some clients have announced the oldest unit, others have not, and nothing else keeps
/// them waiting: all before it is called back.
void Coordinator::check_deadline() {
  const double limit = context_.options.deadline_seconds;
  if (limit <= 0 || completed_ >= end_ || !roster_.waits_for_some(completed_)) return;
  const auto now = std::chrono::steady_clock::now();
  if (!lateness_ || lateness_->unit != completed_) lateness_ = {completed_, now};
  if (std::chrono::duration<double>(now - lateness_->since).count() <= limit) return;
  const std::vector<std::uint32_t> late = roster_.missing(completed_);
  if (!context_.options.drop_late) {
    refuse_late(late);
    return;
  }
  const PlannedUnit& unit = context_.plan.unit(completed_);
  for (const std::uint32_t client : late) {
    const std::string reason =
        fmt::format("late: {} was not there {:.3g} s after the others'", describe(unit), limit);
    drop({.client = client, .block = unit.id.block, .reason = reason, .late = true}, completed_);
    context_.link.post(context_.plan.rank_of(client), LateMessage{client, completed_});
  }
}

void Coordinator::refuse_late(const std::vector<std::uint32_t>& clients) {
  std::string names;
  for (const std::uint32_t client : clients)
    names += fmt::format("{}{} on rank {}", names.empty() ? "" : ", ", context_.plan.name_of(client),
                         context_.plan.rank_of(client));
  const PeerError late(fmt::format(
      "late in block {}: {} not delivered {:.3g} s after the others' by {}. Raise the deadline, give "
      "slow clients less to do, or let late ones be dropped",
      context_.plan.unit(completed_).id.block, describe(context_.plan.unit(completed_)),
      context_.options.deadline_seconds, names));
  on(context_.link.rank(), FailedMessage{failure_of(late, context_.rank_name)});
}

// --- agreed boundaries
// -----------------------------------------------------------------------------------------------

void Coordinator::on(int, const WishMessage& message) {
  if (state_ == State::running && vote_.request(message.what)) post_to_all(HoldMessage());
}

void Coordinator::on(int, const BegunMessage& message) {
  if (state_ != State::running) return;
  const auto decision = vote_.answer(message.next);
  if (!decision) return;
  if (decision->what == Boundary::stop) {
    stop_ = decision->block;
    end_ = context_.plan.first_unit_of(decision->block);
  }
  post_to_all(DecisionMessage{decision->what, decision->block});
}

// --- blocks of the previous round
// -------------------------------------------------------------------------------------

void Coordinator::on(int rank, const FetchMessage& message) {
  if (state_ == State::running) fetches_.emplace_back(rank, message.block);
}

void Coordinator::serve_blocks() {
  while (blocks_served_ < kBlocksServedAtOnce && !fetches_.empty()) {
    const std::uint32_t block = fetches_.front().second;
    std::vector<int> ranks;  // all that wait for this block are served by one reading of it
    std::erase_if(fetches_, [&](const auto& fetch) {
      if (fetch.second == block) ranks.push_back(fetch.first);
      return fetch.second == block;
    });
    ++blocks_served_;
    provider_worker_.post([this, block, ranks] {
      const Bytes bytes = provide_(block);
      context_.desk.post([this, block, ranks, bytes] { send_block(block, ranks, bytes); });
    });
  }
}

void Coordinator::send_block(std::uint32_t block, const std::vector<int>& ranks, const Bytes& bytes) {
  if (state_ != State::running) return;
  const auto left = std::make_shared<std::size_t>(ranks.size());
  for (const int rank : ranks) {
    context_.link.post(rank, BlockMessage{block, static_cast<std::int64_t>(bytes->size())});
    context_.link.send(rank, Tag::block, *bytes, [this, left, bytes] {
      if (--*left == 0) --blocks_served_;
    });
  }
}

// --- the end
// ----------------------------------------------------------------------------------------------------------

void Coordinator::post_to_all(const Message& message) {
  for (int rank = 0; rank < context_.link.size(); ++rank) context_.link.post(rank, message);
}

void Coordinator::on(int, const FinishMessage& message) {
  ++finished_ranks_;
  somebody_stopped_ = somebody_stopped_ || message.stopped;
}

void Coordinator::on(int, const ByeMessage&) {
  if (++last_words_ == context_.link.size()) over_ = true;
}

/// Of several failures the lowest rank's counts.
void Coordinator::remember(int rank, Failure&& failure) {
  if (failed_rank_ >= 0 && failed_rank_ <= rank) return;
  failed_rank_ = rank;
  failure_ = std::move(failure);
}

void Coordinator::on(int rank, FailedMessage&& message) {
  if (state_ == State::closing) return;  // too late: everything was done
  remember(rank, std::move(message.failure));
  if (state_ == State::stopping) return;
  state_ = State::stopping;
  discard();
  post_to_all(StopMessage());
}

void Coordinator::on(int rank, StoppedMessage&& message) {
  if (message.failure) remember(rank, std::move(*message.failure));
  if (++last_words_ < context_.link.size()) return;
  post_to_all(VerdictMessage{failure_});
  over_ = true;
}

}  // namespace fedspallm::comm
