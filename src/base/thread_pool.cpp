// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/thread_pool.hpp"

#include "fedspallm/base/error.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace fedspallm {

namespace {

/// For so long a thread that waits looks again and again before it sleeps. Between two jobs of one op lie
/// microseconds, and waking a sleeping thread takes 50 (measured: sweeps of 576 x 576 were slower with two
/// threads than with one); more would take the core from another rank's work.
constexpr std::chrono::microseconds kLooksFor{40};

template <class Condition>
bool comes_soon(Condition condition) {
  constexpr int looks = 32;  // between two readings of the clock
  const auto end = std::chrono::steady_clock::now() + kLooksFor;
  do {
    for (int look = 0; look < looks; ++look) {
      if (condition()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

struct ThreadPool::State {
  std::mutex mutex;  // orders going to sleep and waking; guards `failure`
  std::condition_variable work_ready;
  std::condition_variable work_done;
  std::atomic<std::uint64_t> job{0};  // number of the current job: its change publishes the fields below
  std::atomic<bool> stopping{false};
  const std::function<void(std::int64_t, int)>* body = nullptr;
  std::int64_t units = 0;
  std::atomic<std::int64_t> next{0};
  std::atomic<int> busy{0};  // workers still inside the current job
  std::exception_ptr failure;
  std::vector<std::jthread> workers;

  void work(int worker) {
    try {
      for (std::int64_t unit = next.fetch_add(1); unit < units; unit = next.fetch_add(1))
        (*body)(unit, worker);
    } catch (...) {
      const std::scoped_lock lock(mutex);
      if (!failure) failure = std::current_exception();
      next.store(units);
    }
  }

  void loop(int worker) {
    for (std::uint64_t seen = 0;; ++seen) {
      const auto called = [&] { return stopping || job != seen; };
      if (!comes_soon(called)) {
        std::unique_lock lock(mutex);
        work_ready.wait(lock, called);
      }
      if (stopping) return;
      work(worker);
      if (--busy == 0) {
        const std::scoped_lock lock(mutex);  // not between the caller's last look and its sleep
        work_done.notify_one();
      }
    }
  }

  void wait_for_workers() {
    const auto done = [&] { return busy == 0; };
    if (comes_soon(done)) return;
    std::unique_lock lock(mutex);
    work_done.wait(lock, done);
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  require(threads >= 1, "ThreadPool: threads >= 1");
  for (int worker = 1; worker < threads; ++worker)
    state_->workers.emplace_back([state = state_.get(), worker] { state->loop(worker); });
}

ThreadPool::~ThreadPool() {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->stopping = true;
  }
  state_->work_ready.notify_all();
}

int ThreadPool::size() const noexcept {
  return static_cast<int>(state_->workers.size()) + 1;
}

void ThreadPool::run(std::int64_t units, const std::function<void(std::int64_t, int)>& body) {
  State& state = *state_;
  if (units <= 0) return;
  if (state.workers.empty() || units == 1) {
    for (std::int64_t unit = 0; unit < units; ++unit) body(unit, 0);
    return;
  }
  require(state.busy == 0, "ThreadPool::run: one job at a time");
  {
    const std::scoped_lock lock(state.mutex);
    state.body = &body;
    state.units = units;
    state.next = 0;
    state.failure = nullptr;
    state.busy = static_cast<int>(state.workers.size());
    ++state.job;
  }
  state.work_ready.notify_all();
  state.work(0);
  state.wait_for_workers();
  if (state.failure) std::rethrow_exception(state.failure);
}

}  // namespace fedspallm
