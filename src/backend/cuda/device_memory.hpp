// SPDX-License-Identifier: Apache-2.0
// Purpose: memory of one device in the order of one stream, from a pool of its own that keeps what it once
// got from the driver: after warm-up nothing is allocated or waited for. Any thread may allocate and release:
// the device becomes its current one. Counts bytes as asked for.
// Non-goals: typed access; sharing between streams.
#pragma once

#include "handles.hpp"
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>

namespace fedspallm::backend::cuda {

class DeviceMemory {
 public:
  /// @throws ResourceError when the device has no memory pools
  DeviceMemory(int device, cudaStream_t stream);
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  /// 256-byte aligned; null only when bytes == 0.
  /// @throws ResourceError naming the bytes asked for, in use, free and of the device
  [[nodiscard]] void* allocate(std::size_t bytes);
  void release(void* data) noexcept;

  [[nodiscard]] std::int64_t allocated_bytes() const;
  [[nodiscard]] std::int64_t peak_bytes() const;

 private:
  [[noreturn]] void fail(std::size_t bytes) const;

  int device_;
  cudaStream_t stream_;
  MemoryPool pool_;
  mutable std::mutex mutex_;
  std::unordered_map<void*, std::int64_t> sizes_;
  std::int64_t allocated_ = 0, peak_ = 0;
};

/// Device memory that only grows and is kept between ops.
class Workspace {
 public:
  explicit Workspace(DeviceMemory& memory) : memory_(memory) {}
  ~Workspace() { memory_.release(data_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  /// At least `bytes`; contents undefined, invalid after the next call with more.
  [[nodiscard]] std::byte* bytes(std::size_t bytes);
  template <class T>
  [[nodiscard]] T* elements(std::int64_t count) {
    return reinterpret_cast<T*>(
        bytes(static_cast<std::size_t>(std::max<std::int64_t>(count, 1)) * sizeof(T)));
  }

 private:
  DeviceMemory& memory_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace fedspallm::backend::cuda
