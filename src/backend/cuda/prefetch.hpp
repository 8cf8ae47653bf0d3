// SPDX-License-Identifier: Apache-2.0
// Purpose: host bytes that will be wanted soon come to the device ahead of time: a thread of its own reads
// them (from a memory map, say: the page faults are its own), through pinned buffers, on a stream of its own.
// Memory that lacks is no error: what is not here is copied when it is wanted. Non-goal: what the bytes mean.
#pragma once

#include "device_memory.hpp"
#include "staging.hpp"
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace fedspallm::backend::cuda {

class Prefetcher {
 public:
  explicit Prefetcher(int device) : device_(device) {}
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// Begins to bring these; forgets what neither this call nor the one before it asked for.
  /// @param quiet  called before memory is given back: nothing on the device uses it when it returns
  void ask(std::span<const std::span<const std::byte>> sources, const std::function<void()>& quiet);
  /// The same bytes on the device, once they are there; null where they were not asked for or did not fit.
  [[nodiscard]] const std::byte* find(std::span<const std::byte> source);
  [[nodiscard]] std::int64_t allocated_bytes() const;
  [[nodiscard]] std::int64_t peak_bytes() const;

 private:
  enum class State : std::uint8_t { wanted, here, failed };
  struct Entry {
    std::span<const std::byte> source;
    void* memory = nullptr;
    State state = State::wanted;
    bool newest = true;  // asked for by the latest call
  };
  void start();
  void run(const std::stop_token& stop);
  void bring(Entry& entry);

  int device_;
  Stream stream_;
  std::unique_ptr<DeviceMemory> memory_;
  std::unique_ptr<Staging> staging_;  // the thread's
  std::mutex mutex_;                  // of what follows
  std::condition_variable_any changed_;
  std::map<const std::byte*, std::shared_ptr<Entry>> entries_;
  std::deque<std::shared_ptr<Entry>> queue_;
  std::jthread thread_;  // from the first call on
};

}  // namespace fedspallm::backend::cuda
