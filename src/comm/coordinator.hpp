// SPDX-License-Identifier: Apache-2.0
// Purpose: the root's part of the protocol: it hears all announcements, decides what may move next (so that
// its memory is bounded), answers fetches, and ends the exchange well or badly. Communication thread only,
// except where said.
#pragma once

#include "boundaries.hpp"
#include "chain.hpp"
#include "receive_ring.hpp"
#include "root_merge.hpp"
#include "roster.hpp"
#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

namespace fedspallm::comm {

/// Units whose chains may run at once: one being called back, one on its way (reduce).
constexpr std::size_t kChainsAtOnce = 2;
/// Receive buffer in largest updates: one being merged, two on their way (gather).
constexpr std::int64_t kUpdatesAtOnce = 3;
/// Merged blocks that the root holds at once to answer fetches.
constexpr int kBlocksServedAtOnce = 2;

class Coordinator {
 public:
  /// Takes the updates of the root's own clients (gather).
  using TakeOwn = std::function<OwnUpdates(const ReadyUnit& ready)>;
  using Bytes = std::shared_ptr<const std::vector<std::byte>>;
  using Provide = std::function<Bytes(std::uint32_t block)>;

  Coordinator(const RankContext& context, Worker& merge_worker, Worker& provider_worker,
              Exchange::OnCompleted on_completed, Provide provide, TakeOwn take_own);
  ~Coordinator();

  void on(int rank, AnnounceMessage&& message);
  void on(int rank, const FetchMessage& message);
  void on(int rank, WrittenMessage&& message);
  void on(int rank, DropMessage&& message);
  void on(int rank, const WishMessage& message);
  void on(int rank, const BegunMessage& message);
  void on(int rank, const FinishMessage& message);
  void on(int rank, const ByeMessage& message);
  void on(int rank, FailedMessage&& message);
  void on(int rank, StoppedMessage&& message);
  /// From the root's chain (reduce): the unit is merged.
  void on_reduced(std::size_t index, const std::shared_ptr<CountedMerge>& merge);

  /// Starts what may start now.
  void advance();
  /// Nothing more is to be sent or heard.
  [[nodiscard]] bool over() const { return over_; }
  /// Any thread: merging has no use any more.
  void discard() { discarding_ = true; }

 private:
  enum class State { running, closing, stopping };
  void grant_next();
  void merge_own(const std::shared_ptr<const ReadyUnit>& ready);
  bool grant(const std::shared_ptr<const ReadyUnit>& ready, const Announcement& said);
  void merge_in_order(std::size_t index, std::size_t clients, Worker::Task task);
  Worker::Task adding(const std::shared_ptr<const ReadyUnit>& ready, const std::function<bool()>& add);
  void start_chains();
  void start_chain(const ReadyUnit& ready);
  void start_slices();
  void written(std::size_t index);
  void complete_uncovered(const std::shared_ptr<const ReadyUnit>& ready);
  void unit_done(std::size_t index);
  void drop(Dropped&& dropped, std::size_t first);
  void check_deadline();
  void refuse_late(const std::vector<std::uint32_t>& clients);
  void serve_blocks();
  void send_block(std::uint32_t block, const std::vector<int>& ranks, const Bytes& bytes);
  void remember(int rank, Failure&& failure);
  void post_to_all(const Message& message);

  const RankContext& context_;
  Worker& merge_worker_;
  Worker& provider_worker_;
  Provide provide_;
  TakeOwn take_own_;
  RootMerge root_merge_;  // used on the merge thread
  ReceiveRing ring_;
  std::atomic<bool> discarding_{false};

  Roster roster_;
  BoundaryVote vote_;
  std::optional<std::uint32_t> stop_;  // block, once agreed
  std::size_t end_;                    // units to be merged: all, or those before the stop
  std::size_t completed_ = 0;          // units called back
  std::size_t next_ = 0;               // unit to be granted (gather) or scaled (reduce)
  bool own_taken_ = false;
  std::size_t next_client_ = 0;     // of that unit
  std::size_t merging_ = 0;         // unit whose additions go to the worker
  std::size_t merging_posted_ = 0;  // clients in them
  // Additions to later units, each with its number of clients.
  std::map<std::size_t, std::vector<std::pair<std::size_t, Worker::Task>>> early_;
  std::set<std::size_t> written_;  // called back ahead of others (owners)
  /// Since when the unit completed_ waits for late clients.
  struct Lateness {
    std::size_t unit = 0;
    std::chrono::steady_clock::time_point since;
  };
  std::optional<Lateness> lateness_;
  std::deque<std::pair<int, std::uint32_t>> fetches_;  // (rank, block), not begun
  int blocks_served_ = 0;

  State state_ = State::running;
  int finished_ranks_ = 0;
  bool somebody_stopped_ = false;
  int last_words_ = 0;  // byes or stoppeds heard
  bool over_ = false;
  int failed_rank_ = -1;
  Failure failure_;
};

}  // namespace fedspallm::comm
