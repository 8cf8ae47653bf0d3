// SPDX-License-Identifier: Apache-2.0
// Purpose: how the threads of one rank's exchange talk: a desk where others leave commands for the
// communication thread, a worker that runs long tasks in order beside it, and a gate at which client threads
// wait. Non-goal: MPI.
#pragma once

#include "boundaries.hpp"
#include "messages.hpp"
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

namespace fedspallm::comm {

/// Commands for the communication thread, from any thread, in order.
class Desk {
 public:
  using Command = std::function<void()>;
  void post(Command command);
  /// Runs the oldest command; false when there was none. An exception of the command passes through.
  bool run_one();
  /// Sleeps until a command is there, at most `limit`.
  void wait(std::chrono::microseconds limit);

 private:
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<Command> commands_;
};

/// A thread that runs tasks in order. Exceptions go to `on_error` (called on this thread); later tasks still
/// run.
class Worker {
 public:
  using Task = std::function<void()>;
  explicit Worker(std::function<void()> on_error);
  /// Runs what is queued, then ends.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  void post(Task task);

 private:
  void run();
  std::function<void()> on_error_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool ending_ = false;
  std::jthread thread_;  // last: it uses the others
};

/// Where client threads wait: for room in the window, for an answer, for the end.
class Gate {
 public:
  /// Blocks are counted among the planned ones here (PlanIndex::block_of), but for `boundary`'s.
  explicit Gate(std::size_t window_blocks, std::uint32_t first_block = 0)
      : window_blocks_(window_blocks), boundaries_(first_block) {}

  /// What to do before `boundary`, a block of the model; `block` planned ones come before it. Waits while
  /// ranks are being asked, or while `block` is too far ahead of the durable one. @throws the failure
  [[nodiscard]] Boundary begin(std::uint32_t boundary, std::size_t block);
  /// Counts `updates` of `block` in; waits while `window_blocks` other blocks are in flight, or while it is
  /// too far ahead of the durable one. @throws the failure
  void enter(std::size_t block, std::size_t updates = 1);
  /// Updates of `block` have left this rank's memory.
  void taken(std::size_t block, std::size_t updates = 1);
  /// Waits until ready() (looked at under the gate's lock). @throws the failure
  void wait(const std::function<bool()>& ready);
  /// Changes something that wait() looks at.
  void change(const std::function<void()>& action);
  /// The first planned block that is not durable yet.
  void set_durable(std::size_t block);
  /// Looks at or changes the boundaries, and wakes who waits for them.
  template <class Action>
  auto with_boundaries(Action action) {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
    return action(boundaries_);
  }

  /// The end of the exchange: nothing (good) or why.
  void close(const std::optional<Failure>& failure);
  /// Waits for the end. @throws the failure
  void wait_closed();
  /// Waits for the end, good or bad.
  void wait_closed_quietly();
  [[nodiscard]] double seconds_waited() const;

 private:
  void wait_locked(std::unique_lock<std::mutex>& lock, const std::function<bool()>& ready);
  void throw_failure() const;
  [[nodiscard]] bool near_durable(std::size_t block) const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t window_blocks_;
  std::map<std::size_t, std::int64_t> in_flight_;  // block -> updates
  std::size_t durable_ = 0;
  Boundaries boundaries_;
  bool closed_ = false;
  std::optional<Failure> failure_;
  std::chrono::nanoseconds waited_{0};
};

/// A sum that remembers its maximum; from any thread.
class Gauge {
 public:
  void add(std::int64_t amount);
  void subtract(std::int64_t amount) { value_.fetch_sub(amount); }
  [[nodiscard]] std::int64_t peak() const { return peak_.load(); }

 private:
  std::atomic<std::int64_t> value_{0};
  std::atomic<std::int64_t> peak_{0};
};

}  // namespace fedspallm::comm
