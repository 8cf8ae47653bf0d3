// SPDX-License-Identifier: Apache-2.0
// Updates in device memory: what their values are, and their sums. Integers only: any order gives the same
// bits.
#include "kernels.hpp"
#include "launch.cuh"
#include "packed.cuh"

namespace fedspallm::backend::cuda {

namespace {

constexpr std::int64_t tile_weights = 64;
constexpr std::int64_t tile_sum_bytes = tile_weights * 8;
constexpr std::int64_t tile_bytes = tile_sum_bytes + tile_weights * 4;

struct LargestBits {
  __device__ unsigned operator()(unsigned a, unsigned b) const { return a > b ? a : b; }
};

[[nodiscard]] __device__ inline unsigned magnitude_of(float value) {
  return bits_of(value) & 0x7fffffffU;
}

template <DType type>
__global__ void __launch_bounds__(block_threads)
    look_kernel(const typename Stored<type>::Value* values, std::int64_t count, UpdateFacts* facts) {
  __shared__ unsigned shared[block_warps];
  unsigned largest = 0, zeros = 0;
  for (std::int64_t offset = threadIdx.x; offset < pack_unit; offset += blockDim.x) {
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * pack_unit + offset;
    if (index >= count) continue;
    const unsigned magnitude = magnitude_of(Stored<type>::widen(values[index]));
    largest = largest > magnitude ? largest : magnitude;
    zeros += magnitude == 0 ? 1U : 0U;
  }
  largest = block_reduce(largest, LargestBits{}, shared);
  zeros = block_reduce(zeros, Sum{}, shared);
  if (threadIdx.x != 0) return;
  atomicMax(&facts->largest, largest);
  atomicAdd(&facts->zeros, static_cast<unsigned long long>(zeros));
}

template <DType type>
__global__ void __launch_bounds__(block_threads)
    accumulate_kernel(const std::uint32_t* bits, std::int64_t size, const unsigned long long* starts,
                      const typename Stored<type>::Value* values, std::int64_t kept, int q, std::byte* tiles,
                      UpdateFacts* facts) {
  __shared__ unsigned shared[block_warps];
  unsigned largest = 0;
  for_places(bits, size, starts[blockIdx.x], [&](std::int64_t index, bool set, unsigned long long place) {
    if (!set || static_cast<std::int64_t>(place) >= kept) return;
    const float value = Stored<type>::widen(values[place]);
    const unsigned magnitude = magnitude_of(value);
    largest = largest > magnitude ? largest : magnitude;
    std::byte* tile = tiles + index / tile_weights * tile_bytes;
    reinterpret_cast<std::int64_t*>(tile)[index % tile_weights] += quantize_element(value, q);
    reinterpret_cast<std::uint32_t*>(tile + tile_sum_bytes)[index % tile_weights] += 1;
  });
  largest = block_reduce(largest, LargestBits{}, shared);
  if (threadIdx.x == 0) atomicMax(&facts->largest, largest);
  if (blockIdx.x != gridDim.x - 1) return;
  const std::int64_t padding = size + threadIdx.x;  // fewer than 64
  if (padding < (size + 63) / 64 * 64 && bit_at(bits, padding)) atomicMax(&facts->padding, 1U);
}

template <DType type>
const typename Stored<type>::Value* values_as(const void* values) {
  return static_cast<const typename Stored<type>::Value*>(values);
}

}  // namespace

void look_at_values(cudaStream_t stream, const void* values, std::int64_t count, DType type,
                    UpdateFacts* facts) {
  const Geometry geometry = pack_units(count).geometry();
  switch (type) {
    case DType::f32:
      return launch(stream, geometry, look_kernel<DType::f32>, values_as<DType::f32>(values), count, facts);
    case DType::f16:
      return launch(stream, geometry, look_kernel<DType::f16>, values_as<DType::f16>(values), count, facts);
    case DType::bf16:
      return launch(stream, geometry, look_kernel<DType::bf16>, values_as<DType::bf16>(values), count, facts);
  }
}

void accumulate(cudaStream_t stream, const std::uint32_t* bits, std::int64_t size,
                const unsigned long long* starts, const void* values, std::int64_t kept, DType type, int q,
                std::byte* tiles, UpdateFacts* facts) {
  const Geometry geometry = pack_units(size).geometry();
  switch (type) {
    case DType::f32:
      return launch(stream, geometry, accumulate_kernel<DType::f32>, bits, size, starts,
                    values_as<DType::f32>(values), kept, q, tiles, facts);
    case DType::f16:
      return launch(stream, geometry, accumulate_kernel<DType::f16>, bits, size, starts,
                    values_as<DType::f16>(values), kept, q, tiles, facts);
    case DType::bf16:
      return launch(stream, geometry, accumulate_kernel<DType::bf16>, bits, size, starts,
                    values_as<DType::bf16>(values), kept, q, tiles, facts);
  }
}

}  // namespace fedspallm::backend::cuda
