// SPDX-License-Identifier: Apache-2.0
#include "engine.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

namespace fedspallm::comm {

namespace {

using std::chrono::microseconds;

// Large messages move only inside MPI calls (rulings.md 21): while some are under way the thread first
// yields, then sleeps shortly; with nothing under way it sleeps longer and longer, so that a waiting rank
// costs no time.
constexpr microseconds kYield{1000};
constexpr microseconds kShortestSleep{100};
constexpr microseconds kLongestSleep{1000};

}  // namespace

Engine::Engine(const Communicator& communicator, ExchangePlan plan, ExchangeOptions options,
               Exchange::OnCompleted on_completed, Exchange::Provider provider)
    : options_(std::move(options)),
      plan_(std::move(plan), communicator.size()),
      provider_(std::move(provider)),
      gate_(static_cast<std::size_t>(options_.window_blocks), plan_.plan().first_block),
      due_(plan_, communicator.rank()),
      link_(communicator, options_.message_limit, counters_),
      context_{plan_,
               options_,
               fmt::format("rank {} on {}", communicator.rank(), communicator.host()),
               link_,
               desk_,
               gate_,
               due_,
               facts_,
               merge_memory_,
               merging_nanoseconds_,
               making_nanoseconds_,
               counters_,
               options_.transport == Transport::nccl ? options_.device.get() : nullptr} {
  const bool root = link_.rank() == 0;
  facts_.set_durable_block(plan_.size() > 0 ? plan_.unit(0).id.block
                                            : std::numeric_limits<std::uint32_t>::max());
  merge_worker_ = std::make_unique<Worker>([this] { task_failed(); });
  if (options_.topology == Topology::owners) {
    const Owners::OwnClients own{
        .take = [this](std::size_t index, std::uint32_t client) { return member_->take(index, client).cut; },
        .later = [this](std::size_t index) { return member_->later(index); },
        .through = [this](std::size_t index) { member_->later_through(index); }};
    owners_ = std::make_unique<Owners>(
        context_, *merge_worker_, [this] { task_failed(); }, on_completed, own);
  }
  if (root) {
    provider_worker_ = std::make_unique<Worker>([this] { task_failed(); });
    coordinator_ = std::make_unique<Coordinator>(
        context_, *merge_worker_, *provider_worker_, std::move(on_completed),
        [this](std::uint32_t block) { return provide(block); },
        [this](const ReadyUnit& ready) { return member_->take_own(ready.index, ready.said); });
  }
  member_ = std::make_unique<Member>(
      context_, *merge_worker_,
      [this](std::size_t index, const std::shared_ptr<CountedMerge>& merge) {
        if (coordinator_) coordinator_->on_reduced(index, merge);
      },
      owners_.get());
}

void Engine::start() {
  thread_ = std::jthread([this] { run(); });
}

/// On a worker, inside its handler: the exchange fails with the worker's exception.
void Engine::task_failed() {
  if (coordinator_) coordinator_->discard();
  if (owners_) owners_->abort();
  member_->abort();
  fail(current_failure(context_.rank_name));
}

void Engine::deliver(std::size_t index, Delivery delivery) {
  const auto shared = std::make_shared<Delivery>(std::move(delivery));
  desk_.post([this, index, shared] { member_->deliver(index, std::move(*shared)); });
}

void Engine::deliver_later(std::size_t index, OwnUpdates later) {
  const auto shared = std::make_shared<OwnUpdates>(std::move(later));
  desk_.post([this, index, shared] { member_->deliver_later(index, std::move(*shared)); });
}

void Engine::fetch(const std::shared_ptr<FetchTicket>& ticket) {
  desk_.post([this, ticket] { member_->fetch(ticket); });
}

void Engine::drop(DropMessage message) {
  const auto shared = std::make_shared<DropMessage>(std::move(message));
  desk_.post([this, shared] { member_->drop(std::move(*shared)); });
}

void Engine::wish(Boundary what) {
  desk_.post([this, what] { member_->wish(what); });
}

void Engine::finish() {
  desk_.post([this] { member_->finish(); });
}

void Engine::fail(const Failure& failure) {
  desk_.post([this, failure] { member_->fail(failure); });
}

Coordinator::Bytes Engine::provide(std::uint32_t block) {
  const std::lock_guard lock(provider_mutex_);
  check<LogicError>(static_cast<bool>(provider_), "a block was fetched in an exchange without a provider");
  if (provided_ != nullptr && provided_block_ == block) return provided_;
  provided_.reset();
  provided_ = std::make_shared<const std::vector<std::byte>>(provider_(block));
  provided_block_ = block;
  return provided_;
}

ExchangeStatistics Engine::statistics() const {
  ExchangeStatistics statistics;
  statistics.bytes_sent = counters_.bytes_sent;
  statistics.bytes_received = counters_.bytes_received;
  statistics.messages_sent = counters_.messages_sent;
  statistics.seconds_waited = gate_.seconds_waited();
  statistics.seconds_merging = static_cast<double>(merging_nanoseconds_.load()) * 1e-9;
  statistics.seconds_making = static_cast<double>(making_nanoseconds_.load()) * 1e-9;
  statistics.peak_merge_bytes = merge_memory_.peak();
  return statistics;
}

// --- the communication thread
// -----------------------------------------------------------------------------------------

/// What a message asks for may fail (memory, a peer with another plan) and end the exchange in order; only
/// what MPI itself throws passes through.
void Engine::handle(int source, Message&& message) {
  try {
    dispatch(source, std::move(message));
  } catch (...) {
    member_->fail(current_failure(context_.rank_name));
  }
}

void Engine::dispatch(int source, Message&& message) {
  std::visit(
      [&](auto&& value) {
        using Value = std::remove_cvref_t<decltype(value)>;
        if constexpr (requires { member_->on(std::forward<Value>(value)); }) {
          member_->on(std::forward<Value>(value));
        } else if constexpr (requires { owners_->on(source, std::forward<Value>(value)); }) {
          check<PeerError>(owners_ != nullptr, "a message between owners came in another topology");
          owners_->on(source, std::forward<Value>(value));
        } else {
          check<PeerError>(coordinator_ != nullptr, "a message for the root came to another rank");
          coordinator_->on(source, std::forward<Value>(value));
        }
      },
      std::move(message));
}

bool Engine::over() const {
  return member_->over() && (coordinator_ == nullptr || coordinator_->over()) && context_.idle();
}

bool Engine::step() {
  bool progressed = false;
  while (desk_.run_one()) progressed = true;
  progressed =
      link_.poll([this](int source, Message&& message) { handle(source, std::move(message)); }) || progressed;
  if (context_.device != nullptr && context_.device->link != nullptr)
    progressed = context_.device->link->poll() || progressed;
  if (coordinator_) coordinator_->advance();
  if (owners_) owners_->advance();
  return member_->advance() || progressed;
}

void Engine::pause(bool progressed) {
  const auto now = std::chrono::steady_clock::now();
  if (progressed) {
    last_progress_ = now;
    return;
  }
  const auto idle = std::chrono::duration_cast<microseconds>(now - last_progress_);
  const bool busy = link_.busy() || (link_.idle() && !context_.idle());
  if (busy && idle < kYield) {
    std::this_thread::yield();
  } else if (busy) {
    desk_.wait(kShortestSleep);
  } else {
    desk_.wait(std::clamp(idle / 8, kShortestSleep, kLongestSleep));
  }
}

void Engine::run() {
  std::optional<Failure> failure;
  try {
    while (!over()) {
      bool progressed = true;
      try {
        progressed = step();
      } catch (const PeerError&) {
        throw;  // MPI itself, or a peer that speaks another protocol: no orderly end is possible
      } catch (...) {
        member_->fail(current_failure(context_.rank_name));
      }
      pause(progressed);
    }
    failure = member_->verdict();
    if (failure && options_.on_failure) options_.on_failure();
  } catch (...) {
    failure = current_failure(context_.rank_name);
    if (context_.device != nullptr && context_.device->link != nullptr) context_.device->link->abort();
  }
  if (coordinator_ && failure) coordinator_->discard();
  if (owners_) owners_->abort();  // nobody waits for what will not come
  member_->abort();
  gate_.close(failure);
}

}  // namespace fedspallm::comm
