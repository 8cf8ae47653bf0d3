// SPDX-License-Identifier: Apache-2.0
// Purpose: radix selection: the key of a wanted rank, digit by digit from the highest, by histograms of those
// that share the digits before. Every thread of the block calls the functions. Non-goals: what keys are made
// of, ties among equal keys.
#pragma once

#include "block_ops.cuh"
#include "geometry.hpp"
#include "kernels.hpp"
#include <cstdint>

namespace fedspallm::backend::cuda {

/// One digit of a key and what was found before it.
struct Digit {
  int shift, bits;
  template <class Key>
  [[nodiscard]] __device__ bool shares_prefix(Key key, Key known) const {
    constexpr int key_bits = static_cast<int>(sizeof(Key)) * 8;
    return shift + bits >= key_bits || key >> (shift + bits) == known >> (shift + bits);
  }
  template <class Key>
  [[nodiscard]] __device__ std::uint32_t of(Key key) const {
    return static_cast<std::uint32_t>(key >> shift) & ((1U << bits) - 1U);
  }
};

/// Before the first digit: the state, with key 0, and no bin filled.
template <class Key>
__device__ void start_selection(RadixState<Key>* state, std::uint32_t* histogram, RadixState<Key> start) {
  if (threadIdx.x == 0) *state = start;
  for (unsigned bin = threadIdx.x; bin < select_bins; bin += blockDim.x) histogram[bin] = 0;
}

/// Adds the digits of this block's unit to the histogram: of the elements with counts(index) whose
/// key_of(index) begins as `known`.
template <class Key, class Counts, class KeyOf>
__device__ void add_digits(Units units, Digit digit, Key known, std::uint32_t* histogram, Counts counts,
                           KeyOf key_of) {
  __shared__ std::uint32_t own[select_bins];
  for (unsigned bin = threadIdx.x; bin < select_bins; bin += blockDim.x) own[bin] = 0;
  __syncthreads();
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * units.unit;
  const std::int64_t last = first + units.unit < units.size ? first + units.unit : units.size;
  for (std::int64_t i = first + threadIdx.x; i < last; i += blockDim.x) {
    if (!counts(i)) continue;
    const Key key = key_of(i);
    if (digit.shares_prefix(key, known)) atomicAdd(&own[digit.of(key)], 1U);
  }
  __syncthreads();
  for (unsigned bin = threadIdx.x; bin < select_bins; bin += blockDim.x)
    if (own[bin] != 0) atomicAdd(&histogram[bin], own[bin]);
}

/// Finds the bin that holds the key with index state->remaining and narrows the state to it. The histogram,
/// in shared or global memory, is zero afterwards.
template <class Key>
__device__ void take_bin(std::uint32_t* histogram, Digit digit, RadixState<Key>* state,
                         unsigned long long* shared) {
  constexpr unsigned bins_per_thread = select_bins / block_threads;
  const unsigned first = threadIdx.x * bins_per_thread;
  const unsigned long long remaining = state->remaining;
  unsigned long long own = 0;
  for (unsigned i = 0; i < bins_per_thread; ++i) own += histogram[first + i];
  unsigned long long total = 0;
  unsigned long long before = block_exclusive_sum(own, shared, total);
  // The scan has synchronised: every thread has read `remaining`.
  if (before <= remaining && remaining < before + own) {
    unsigned bin = first;
    while (before + histogram[bin] <= remaining) before += histogram[bin++];
    state->key |= static_cast<Key>(bin) << digit.shift;
    state->remaining = remaining - before;
    state->equal = histogram[bin];
  }
  __syncthreads();
  for (unsigned i = 0; i < bins_per_thread; ++i) histogram[first + i] = 0;
  __syncthreads();
}

}  // namespace fedspallm::backend::cuda
