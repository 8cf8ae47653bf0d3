// SPDX-License-Identifier: Apache-2.0
#include "device_memory.hpp"

#include "fedspallm/base/error.hpp"

#include <limits>

namespace fedspallm::backend::cuda {

DeviceMemory::DeviceMemory(int device, cudaStream_t stream) : device_(device), stream_(stream) {
  int supported = 0;
  check_cuda(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device),
             "cudaDeviceGetAttribute");
  check<ResourceError>(supported != 0,
                       fmt::format("CUDA device {} has no stream-ordered memory pools (a partitioned or very "
                                   "old GPU?); use another device or backend = \"cpu\"",
                                   device));
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  cudaMemPool_t pool = nullptr;
  check_cuda(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate");
  pool_ = MemoryPool(pool);
  std::uint64_t keep_all = std::numeric_limits<std::uint64_t>::max();
  check_cuda(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep_all),
             "cudaMemPoolSetAttribute");
}

void DeviceMemory::fail(std::size_t bytes) const {
  std::size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) static_cast<void>(cudaGetLastError());
  throw ResourceError(
      fmt::format("memory of CUDA device {}: {} bytes could not be allocated ({} bytes are in use by this "
                  "backend, {} of {} are free); use fewer samples, a shorter sequence, fewer clients on this "
                  "GPU or one with more memory",
                  device_, bytes, allocated_bytes(), free, total));
}

void* DeviceMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  void* data = nullptr;
  cudaError_t status = cudaMallocFromPoolAsync(&data, bytes, pool_.get(), stream_);
  if (status == cudaErrorMemoryAllocation) {
    // What the pool keeps may be in the wrong pieces: give it back and ask once more.
    static_cast<void>(cudaGetLastError());
    check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    check_cuda(cudaMemPoolTrimTo(pool_.get(), 0), "cudaMemPoolTrimTo");
    status = cudaMallocFromPoolAsync(&data, bytes, pool_.get(), stream_);
  }
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    fail(bytes);
  }
  check_cuda(status, "cudaMallocFromPoolAsync");
  const std::lock_guard lock(mutex_);
  sizes_.emplace(data, static_cast<std::int64_t>(bytes));
  allocated_ += static_cast<std::int64_t>(bytes);
  peak_ = std::max(peak_, allocated_);
  return data;
}

void DeviceMemory::release(void* data) noexcept {
  if (data == nullptr) return;
  {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(data);
    if (found == sizes_.end()) return;
    allocated_ -= found->second;
    sizes_.erase(found);
  }
  // On a thread that has made no CUDA call yet, freeing would set up a context on device 0: hundreds of MB of
  // a GPU that may be another rank's.
  static_cast<void>(cudaSetDevice(device_));
  // A failure here (a device that is gone) shows again at the next call that can report it.
  static_cast<void>(cudaFreeAsync(data, stream_));
}

std::int64_t DeviceMemory::allocated_bytes() const {
  const std::lock_guard lock(mutex_);
  return allocated_;
}

std::int64_t DeviceMemory::peak_bytes() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

std::byte* Workspace::bytes(std::size_t bytes) {
  if (bytes > size_) {
    memory_.release(data_);  // first: the old and the new one need not fit together
    data_ = nullptr;
    size_ = 0;
    data_ = memory_.allocate(bytes);
    size_ = bytes;
  }
  return static_cast<std::byte*>(data_);
}

}  // namespace fedspallm::backend::cuda
