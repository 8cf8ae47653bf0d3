// SPDX-License-Identifier: Apache-2.0
// Purpose: a fixed set of worker threads that run the units of one job. Work is cut into units by shape
// alone and a unit's result never depends on which thread ran it, so bits do not depend on the number of
// threads (rulings.md 8). Non-goals: nested jobs, task graphs, work stealing between jobs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace fedspallm {

class ThreadPool {
 public:
  /// @pre threads >= 1. The calling thread counts as one, so threads == 1 starts none.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int size() const noexcept;
  /// Runs body(unit, worker) once for each unit in [0, units), worker in [0, size()); returns when all are
  /// done. The first exception of a unit is rethrown here; the remaining units are then skipped.
  /// @pre not called from inside a unit, and by one thread at a time.
  void run(std::int64_t units, const std::function<void(std::int64_t unit, int worker)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fedspallm
