// SPDX-License-Identifier: Apache-2.0
// Purpose: one rank's exchange at work: its threads (communication, merging, providing blocks) and what they
// share. Client threads talk to it through desk() and gate().
#pragma once

#include "coordinator.hpp"
#include "member.hpp"
#include "owners/owners.hpp"
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

namespace fedspallm::comm {

class Engine {
 public:
  Engine(const Communicator& communicator, ExchangePlan plan, ExchangeOptions options,
         Exchange::OnCompleted on_completed, Exchange::Provider provider);
  /// From here on the communication thread makes this rank's MPI calls.
  void start();

  [[nodiscard]] const PlanIndex& plan() const { return plan_; }
  [[nodiscard]] const ExchangeOptions& options() const { return options_; }
  [[nodiscard]] int rank() const { return link_.rank(); }
  [[nodiscard]] int ranks() const { return link_.size(); }
  [[nodiscard]] const std::string& rank_name() const { return context_.rank_name; }
  [[nodiscard]] Gate& gate() { return gate_; }
  [[nodiscard]] DueList& due() { return due_; }
  [[nodiscard]] const Facts& facts() const { return facts_; }
  [[nodiscard]] ExchangeStatistics statistics() const;

  // From client threads.
  /// Owners: what later updates' slices hold.
  void count_slices(std::size_t index, OwnUpdates& later) {
    comm::count_slices(context_, index, later, make_mutex_);
  }
  void deliver(std::size_t index, Delivery delivery);
  void deliver_later(std::size_t index, OwnUpdates later);
  void fetch(const std::shared_ptr<FetchTicket>& ticket);
  void drop(DropMessage message);
  void wish(Boundary what);
  void finish();
  void fail(const Failure& failure);
  /// The root's own clients get a block without a message. Thread-safe; the latest block is kept.
  [[nodiscard]] Coordinator::Bytes provide(std::uint32_t block);

 private:
  void run();
  bool step();
  void handle(int source, Message&& message);
  void dispatch(int source, Message&& message);
  void pause(bool progressed);
  void task_failed();
  [[nodiscard]] bool over() const;

  const ExchangeOptions options_;
  const PlanIndex plan_;
  Exchange::Provider provider_;
  std::mutex provider_mutex_, make_mutex_;
  std::uint32_t provided_block_ = 0;
  Coordinator::Bytes provided_;

  LinkCounters counters_;
  Gauge merge_memory_;
  std::atomic<std::int64_t> merging_nanoseconds_{0};
  std::atomic<std::int64_t> making_nanoseconds_{0};
  Desk desk_;
  Gate gate_;
  DueList due_;
  Facts facts_;
  Link link_;
  RankContext context_;
  // Declared so that threads end before what they use: the communication thread first, then the workers,
  // those of the owners too. A worker's failing task still calls task_failed(), which uses all three.
  std::unique_ptr<Coordinator> coordinator_;  // at the root
  std::unique_ptr<Member> member_;
  std::unique_ptr<Owners> owners_;  // of that topology
  std::chrono::steady_clock::time_point last_progress_ = std::chrono::steady_clock::now();
  std::unique_ptr<Worker> merge_worker_;
  std::unique_ptr<Worker> provider_worker_;
  std::jthread thread_;
};

}  // namespace fedspallm::comm
