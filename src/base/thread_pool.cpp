// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/thread_pool.hpp"

#include "fedspallm/base/error.hpp"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace fedspallm {

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable work_ready;
  std::condition_variable work_done;
  std::uint64_t job = 0;  // number of the current job; workers sleep until it changes
  bool stopping = false;
  const std::function<void(std::int64_t, int)>* body = nullptr;
  std::int64_t units = 0;
  std::atomic<std::int64_t> next{0};
  int busy = 0;  // workers still inside the current job
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
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (true) {
      work_ready.wait(lock, [&] { return stopping || job != seen; });
      if (stopping) return;
      seen = job;
      lock.unlock();
      work(worker);
      lock.lock();
      if (--busy == 0) work_done.notify_one();
    }
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
  {
    const std::scoped_lock lock(state.mutex);
    require(state.busy == 0, "ThreadPool::run: one job at a time");
    state.body = &body;
    state.units = units;
    state.next.store(0);
    state.failure = nullptr;
    state.busy = static_cast<int>(state.workers.size());
    ++state.job;
  }
  state.work_ready.notify_all();
  state.work(0);
  std::unique_lock lock(state.mutex);
  state.work_done.wait(lock, [&] { return state.busy == 0; });
  if (state.failure) std::rethrow_exception(state.failure);
}

}  // namespace fedspallm
