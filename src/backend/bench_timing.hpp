// SPDX-License-Identifier: Apache-2.0
// Purpose: wall time of pieces of work, for benchmarks and their limits.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>

namespace fedspallm::backend {

inline double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The least of five runs: a limit is what the machine can do.
inline double best_seconds(const std::function<void()>& work) {
  double best = seconds_of(work);
  for (int i = 0; i < 4; ++i) best = std::min(best, seconds_of(work));
  return best;
}

}  // namespace fedspallm::backend
