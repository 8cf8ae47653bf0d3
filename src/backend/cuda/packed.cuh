// SPDX-License-Identifier: Apache-2.0
// Purpose: walking over packed values: which bit is set, and which value is its own. Non-goal: kernels.
#pragma once

#include "block_ops.cuh"
#include "elements.hpp"
#include "geometry.hpp"
#include <cstdint>

namespace fedspallm::backend::cuda {

[[nodiscard]] __device__ inline bool bit_at(const std::uint32_t* bits, std::int64_t index) {
  return ((bits[index / 32] >> (index % 32)) & 1U) != 0;
}

/// What a stored value is: its bits and the conversions.
template <DType type>
struct Stored {
  using Value = std::uint16_t;
  [[nodiscard]] __device__ static Value narrow(float value) {
    return type == DType::bf16 ? narrow_bf16(value) : narrow_f16(value);
  }
  [[nodiscard]] __device__ static float widen(Value value) {
    return type == DType::bf16 ? widen_bf16(value) : widen_f16(value);
  }
};
template <>
struct Stored<DType::f32> {
  using Value = float;
  [[nodiscard]] __device__ static float narrow(float value) { return value; }
  [[nodiscard]] __device__ static float widen(float value) { return value; }
};

/// body(index, set, place) for each element of this block's unit, where place counts the set bits before it.
template <class Body>
__device__ void for_places(const std::uint32_t* bits, std::int64_t size, unsigned long long start,
                           Body body) {
  __shared__ unsigned shared[block_warps];
  for (std::int64_t offset = 0; offset < pack_unit; offset += blockDim.x) {
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * pack_unit + offset + threadIdx.x;
    const bool set = index < size && bit_at(bits, index);
    unsigned total = 0;
    const unsigned rank = block_rank(set, shared, total);
    if (index < size) body(index, set, start + rank);
    start += total;
  }
}

/// One word of the bits from each warp, and the unit's count: stays(index) for every element of the unit, by
/// every thread.
template <class Stays>
__device__ void write_bits(std::int64_t size, std::uint32_t* bits, std::uint32_t* kept_of_unit, Stays stays) {
  __shared__ unsigned shared[block_warps];
  const std::int64_t words = 2 * ((size + 63) / 64);
  unsigned kept = 0;
  for (std::int64_t offset = threadIdx.x; offset < pack_unit; offset += blockDim.x) {
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * pack_unit + offset;
    const bool set = stays(index);
    const unsigned word = __ballot_sync(all_lanes, set);
    if (lane_index() == 0 && index / 32 < words) bits[index / 32] = word;
    kept += set ? 1U : 0U;
  }
  kept = block_reduce(kept, Sum{}, shared);
  if (threadIdx.x == 0) kept_of_unit[blockIdx.x] = kept;
}

}  // namespace fedspallm::backend::cuda
