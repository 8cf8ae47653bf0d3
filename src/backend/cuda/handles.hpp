// SPDX-License-Identifier: Apache-2.0
// Purpose: RAII for each handle of the CUDA libraries. Destructors never throw: what goes wrong while
// releasing has nobody left to act on it. Non-goal: what is done with the handles.
#pragma once

#include "cuda_check.hpp"
#include <cstddef>
#include <utility>

namespace fedspallm::backend::cuda {

/// Move-only owner of a handle that Release gives back.
template <class Handle, auto Release>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  ~Owned() {
    if (handle_ != nullptr) static_cast<void>(Release(handle_));
  }
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  [[nodiscard]] Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

using Stream = Owned<cudaStream_t, &cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, &cudaEventDestroy>;
using MemoryPool = Owned<cudaMemPool_t, &cudaMemPoolDestroy>;
using PinnedMemory = Owned<void*, &cudaFreeHost>;
using BlasHandle = Owned<cublasHandle_t, &cublasDestroy>;
using SolverHandle = Owned<cusolverDnHandle_t, &cusolverDnDestroy>;
using SolverParameters = Owned<cusolverDnParams_t, &cusolverDnDestroyParams>;

[[nodiscard]] inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return Stream(stream);
}
[[nodiscard]] inline Event make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return Event(event);
}
[[nodiscard]] inline PinnedMemory make_pinned(std::size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault), "cudaHostAlloc of a staging buffer");
  return PinnedMemory(memory);
}

}  // namespace fedspallm::backend::cuda
