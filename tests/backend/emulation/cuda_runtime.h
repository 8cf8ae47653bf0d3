// SPDX-License-Identifier: Apache-2.0
// Purpose: CUDA C++ as plain C++: what kernels say, executed by threads.hpp. Stands in for the CUDA header of
// this name (cuda_runtime_api.h beside it says why and what not).
#pragma once

#include "cuda_runtime_api.h"
#include "threads.hpp"
#include <cmath>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
/// One block runs at a time, so what a block shares is what a function keeps.
#define __shared__ static

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// What each thread reads; set by the emulation before it goes on with a thread.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() {
  emulation::wait_for_block();
}
inline void __syncwarp() {
  emulation::wait_for_warp();
}

/// Every lane gives a value and takes the one of `source`.
template <class T>
T emulated_shuffle(T value, unsigned source) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t) && std::is_trivially_copyable_v<T>);
  return emulation::exchange(value, source);
}
inline unsigned emulated_lane() {
  return threadIdx.x % 32;
}
template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return emulated_shuffle(value, static_cast<unsigned>(source) % 32);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  return emulated_shuffle(value, emulated_lane() ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  return emulated_shuffle(value, emulated_lane() >= delta ? emulated_lane() - delta : emulated_lane());
}
inline unsigned __ballot_sync(unsigned, bool flag) {
  return emulation::ballot(flag);
}
inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}

template <class T>
T atomicAdd(T* to, std::type_identity_t<T> value) {
  return std::exchange(*to, *to + value);
}
template <class T>
T atomicMin(T* to, std::type_identity_t<T> value) {
  return std::exchange(*to, value < *to ? value : *to);
}

template <class T>
T atomicMax(T* to, std::type_identity_t<T> value) {
  return std::exchange(*to, value > *to ? value : *to);
}

/// One kernel at a time, whichever thread launches it: threadIdx and its like are the process's.
inline std::mutex emulated_device;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <class... Expected, class... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...),
                               Actual&&... arguments) {
  if (!emulated_device_chosen()) return cudaErrorInvalidDevice;
  const dim3 grid = config->gridDim, block = config->blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.z != 1 || grid.y > 65535 || block.x == 0 || block.x > 1024 ||
      block.x % 32 != 0 || block.y != 1 || block.z != 1)
    return cudaErrorInvalidConfiguration;  // part warps are legal on a GPU, but no kernel here expects them
  const std::tuple<Expected...> values(std::forward<Actual>(arguments)...);
  const std::lock_guard lock(emulated_device);
  gridDim = grid;
  blockDim = block;
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = dim3(x, y);
      emulation::run_block(
          block.x, [&](unsigned thread) { threadIdx = dim3(thread); }, [&] { std::apply(kernel, values); });
    }
  return cudaSuccess;
}
