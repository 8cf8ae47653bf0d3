// SPDX-License-Identifier: Apache-2.0
// Purpose: aligned host memory with the bytes now allocated and their peak; shared by the reference and cpu
// backends. Large blocks that were released are kept and given again to who asks for as much: the same sizes
// come back with every decoder block, and the kernel would clear their pages each time. What is in use and
// what is kept never exceed together what was in use at some time by more than a sixteenth. Non-goals: typed
// access.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace fedspallm::backend {

class HostMemory {
 public:
  HostMemory() = default;
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  /// At least 64-byte aligned, of unknown contents; null only when bytes == 0. Threads may call it at the
  /// same time. @throws ResourceError naming the bytes when they cannot be had.
  [[nodiscard]] void* allocate(std::size_t bytes);
  void release(void* data) noexcept;

  [[nodiscard]] std::int64_t allocated_bytes() const noexcept;
  [[nodiscard]] std::int64_t peak_bytes() const noexcept;
  /// Of released blocks that are still here.
  [[nodiscard]] std::int64_t kept_bytes() const noexcept;

 private:
  [[nodiscard]] void* take_kept(std::size_t mapped);
  void make_room(std::size_t mapped);
  void drop_largest_kept();

  mutable std::mutex mutex_;
  std::int64_t allocated_ = 0, peak_ = 0;                // as asked for
  std::size_t in_use_ = 0, most_in_use_ = 0, kept_ = 0;  // of mapped blocks, in whole pages
  std::multimap<std::size_t, void*> blocks_;             // that are kept, by size
};

}  // namespace fedspallm::backend
