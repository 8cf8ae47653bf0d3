// SPDX-License-Identifier: Apache-2.0
#include "coordinator.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace fedspallm::comm {

namespace {

std::int64_t ring_bytes(const RankContext& context) {
  if (context.options.transport != Transport::gather) return 0;
  return kUpdatesAtOnce * (context.plan.largest_update() + 64);  // each piece begins at a cache line
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
      ring_(ring_bytes(context)) {
  context_.merge_memory.add(ring_.capacity());
}

Coordinator::~Coordinator() = default;

// --- merging
// ---------------------------------------------------------------------------------------------------------

void Coordinator::on(int rank, AnnounceMessage&& message) {
  if (state_ != State::running) return;
  const auto index = static_cast<std::size_t>(message.unit);
  check<PeerError>(index < context_.plan.size(), "an announcement of a unit outside the plan");
  auto& said = announced_[index];
  const PlannedUnit& unit = context_.plan.unit(index);
  for (const Announcement& one : message.clients) {
    const bool expected = std::binary_search(unit.clients.begin(), unit.clients.end(), one.client) &&
                          context_.plan.rank_of(one.client) == rank && one.kept >= 0 &&
                          one.kept <= unit.rows * unit.cols;
    if (!expected) {
      throw PeerError(fmt::format(
          "rank {} announced client {} with {} kept weights for {}, which the plan does not expect", rank,
          one.client, one.kept, describe(unit)));
    }
    said.push_back(one);
  }
  if (said.size() < unit.clients.size()) return;
  ready_[index] = std::make_shared<const ReadyUnit>(make_ready(index, std::move(said)));
  announced_.erase(index);
}

void Coordinator::advance() {
  if (state_ != State::running) return;
  if (context_.options.transport == Transport::gather) {
    grant_next();
  } else {
    start_chains();
  }
  serve_blocks();
  if (finished_ranks_ == context_.link.size() && completed_ == context_.plan.size()) {
    state_ = State::closing;
    post_to_all(DoneMessage());
  }
}

void Coordinator::grant_next() {
  for (auto found = ready_.find(next_); found != ready_.end(); found = ready_.find(next_)) {
    const auto ready = found->second;
    if (next_client_ == 0 && !own_taken_) merge_own(ready);
    for (; next_client_ < ready->said.size(); ++next_client_) {
      const Announcement& said = ready->said[next_client_];
      if (context_.plan.rank_of(said.client) != context_.link.rank() && !grant(ready, said)) return;
    }
    ++next_;
    next_client_ = 0;
    own_taken_ = false;
  }
}

/// The updates of the root's own clients are here already: one pass over the tiles adds them all.
void Coordinator::merge_own(const std::shared_ptr<const ReadyUnit>& ready) {
  own_taken_ = true;
  const std::size_t clients = context_.plan.clients_on(ready->index, context_.link.rank());
  if (clients == 0) return;
  const auto updates = std::make_shared<std::vector<wire::MatrixUpdate>>(take_own_(ready->index));
  merge_in_order(ready->index, clients, adding(ready, [this, ready, updates, clients] {
                   const bool all_in = root_merge_.add(*ready, *updates);
                   *updates = {};
                   for (std::size_t i = 0; i < clients; ++i) {
                     context_.gate.taken(context_.plan.block_of(ready->index));
                   }
                   return all_in;
                 }));
}

/// False while there is no room for the update.
bool Coordinator::grant(const std::shared_ptr<const ReadyUnit>& ready, const Announcement& said) {
  const std::size_t index = ready->index;
  const int rank = context_.plan.rank_of(said.client);
  const PlannedUnit& unit = context_.plan.unit(index);
  const std::int64_t capacity = ring_.capacity();
  const auto piece =
      ring_.take(wire::encoded_bytes(unit.rows, unit.cols, said.kept, unit.dtype, unit.with_diagonal));
  context_.merge_memory.add(ring_.capacity() - capacity);
  if (!piece) return false;
  context_.link.receive(rank, Tag::payload, piece->bytes, [this, ready, said, piece = *piece] {
    const Worker::Task add = adding(
        ready, [this, ready, said, piece] { return root_merge_.add_encoded(*ready, said, piece.bytes); });
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
  });
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
    context_.desk.post([this, index = ready->index] {
      ready_.erase(index);
      ++completed_;
    });
  };
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
  while (merging_ < context_.plan.size() && merging_posted_ == context_.plan.unit(merging_).clients.size()) {
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
  while (next_ < completed_ + kChainsAtOnce && ready_.contains(next_)) {
    const ReadyUnit& ready = *ready_[next_];
    for (const int rank : context_.plan.ranks_of(next_)) {
      context_.link.post(rank, ScaleMessage{next_, ready.scale.q, ready.diagonal_scale.q});
    }
    ++next_;
  }
}

void Coordinator::on_reduced(std::size_t index, const std::shared_ptr<CountedMerge>& merge) {
  const auto found = ready_.find(index);
  if (found == ready_.end() || merge == nullptr) return;
  merge_worker_.post([this, ready = found->second, merge] {
    if (discarding_) return;
    const ScopedTime time(context_.merging_nanoseconds);
    root_merge_.complete(*ready, merge->merge());
    context_.desk.post([this, index = ready->index] {
      ready_.erase(index);
      ++completed_;
    });
  });
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

void Coordinator::on(int, const FinishMessage&) {
  ++finished_ranks_;
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
