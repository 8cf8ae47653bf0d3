// SPDX-License-Identifier: Apache-2.0
// Purpose: aligned host memory with the bytes now allocated and their peak; shared by the reference and cpu
// backends. Non-goals: pooling; typed access.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fedspallm::backend {

class HostMemory {
 public:
  HostMemory() = default;
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  /// At least 64-byte aligned; null only when bytes == 0. Threads may call it at the same time.
  /// @throws ResourceError naming the bytes when they cannot be had.
  [[nodiscard]] void* allocate(std::size_t bytes);
  void release(void* data) noexcept;

  [[nodiscard]] std::int64_t allocated_bytes() const noexcept { return allocated_.load(); }
  [[nodiscard]] std::int64_t peak_bytes() const noexcept { return peak_.load(); }

 private:
  std::atomic<std::int64_t> allocated_{0};
  std::atomic<std::int64_t> peak_{0};
};

}  // namespace fedspallm::backend
