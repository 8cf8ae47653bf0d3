// SPDX-License-Identifier: Apache-2.0
// Purpose: the threads of one CUDA block as coroutines on one CPU thread. A thread runs until it waits for
// its warp or its block; the order in which threads go on is shuffled from block to block, so that a kernel
// that forgets to wait gives other results than it should. A wait that can never end throws. Non-goal: CUDA's
// names (cuda_runtime.h).
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>

namespace emulation {

/// Runs `body` once for each of `threads` threads; `enter(i)` is called whenever thread i goes on.
/// @throws std::logic_error when some threads wait for others that have waited elsewhere
void run_block(unsigned threads, const std::function<void(unsigned)>& enter,
               const std::function<void()>& body);

// For the running thread:
void wait_for_block();
void wait_for_warp();
/// Every lane of the warp gives a word and gets the one that lane `source` gave.
[[nodiscard]] std::uint64_t exchange_word(std::uint64_t word, unsigned source);
/// Bit i: what lane i gave.
[[nodiscard]] unsigned ballot(bool flag);

template <class T>
[[nodiscard]] T exchange(T value, unsigned source) {
  std::uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  word = exchange_word(word, source);
  std::memcpy(&value, &word, sizeof value);
  return value;
}

}  // namespace emulation
