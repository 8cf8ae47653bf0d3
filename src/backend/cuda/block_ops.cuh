// SPDX-License-Identifier: Apache-2.0
// Purpose: reductions, scans and ranks within a block of up to block_threads threads, in an order that the
// number of threads alone decides. Every thread of the block calls them. Non-goals: grids, floating atomics.
#pragma once

#include <cuda_runtime.h>

#include "geometry.hpp"
#include <cstdint>

namespace fedspallm::backend::cuda {

constexpr unsigned all_lanes = 0xffffffffU;

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Largest {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

[[nodiscard]] __device__ inline unsigned lane_index() {
  return threadIdx.x % warp_size;
}
[[nodiscard]] __device__ inline unsigned warp_index() {
  return threadIdx.x / warp_size;
}

/// The same value in all threads. shared: one T for each warp; free again when the call returns.
template <class T, class Op>
[[nodiscard]] __device__ T block_reduce(T value, Op op, T* shared) {
  for (unsigned offset = warp_size / 2; offset > 0; offset /= 2)
    value = op(value, __shfl_xor_sync(all_lanes, value, offset));
  if (lane_index() == 0) shared[warp_index()] = value;
  __syncthreads();
  T total = shared[0];
  for (unsigned warp = 1; warp < blockDim.x / warp_size; ++warp) total = op(total, shared[warp]);
  __syncthreads();
  return total;
}

/// Sum of the values of all threads before this one; `total` = of all. shared: one T for each warp.
template <class T>
[[nodiscard]] __device__ T block_exclusive_sum(T value, T* shared, T& total) {
  T inclusive = value;
  for (unsigned offset = 1; offset < warp_size; offset *= 2) {
    const T other = __shfl_up_sync(all_lanes, inclusive, offset);
    if (lane_index() >= offset) inclusive += other;
  }
  if (lane_index() == warp_size - 1) shared[warp_index()] = inclusive;
  __syncthreads();
  T before = 0;
  total = 0;
  for (unsigned warp = 0; warp < blockDim.x / warp_size; ++warp) {
    if (warp < warp_index()) before += shared[warp];
    total += shared[warp];
  }
  __syncthreads();
  return before + inclusive - value;
}

/// How many threads before this one have the flag; `total` = how many have it at all. shared: one word for
/// each warp.
[[nodiscard]] __device__ inline unsigned block_rank(bool flag, unsigned* shared, unsigned& total) {
  const unsigned ballot = __ballot_sync(all_lanes, flag);
  if (lane_index() == 0) shared[warp_index()] = static_cast<unsigned>(__popc(ballot));
  __syncthreads();
  unsigned before = static_cast<unsigned>(__popc(ballot & ((1U << lane_index()) - 1U)));
  total = 0;
  for (unsigned warp = 0; warp < blockDim.x / warp_size; ++warp) {
    if (warp < warp_index()) before += shared[warp];
    total += shared[warp];
  }
  __syncthreads();
  return before;
}

}  // namespace fedspallm::backend::cuda
