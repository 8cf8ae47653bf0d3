// SPDX-License-Identifier: Apache-2.0
// Dense <-> mask bits and kept values. A unit is a block's share: its bits are counted first, then the counts
// are summed, so that every value knows its place.
#include "kernels.hpp"
#include "launch.cuh"
#include "packed.cuh"

namespace fedspallm::backend::cuda {

namespace {

__global__ void __launch_bounds__(block_threads)
    pack_bits_kernel(ConstMasks mask, std::uint32_t* bits, std::uint32_t* kept_of_unit) {
  const std::int64_t size = mask.size();
  write_bits(size, bits, kept_of_unit,
             [&](std::int64_t index) { return index < size && mask.flat(index) != 0; });
}

__global__ void __launch_bounds__(block_threads)
    count_bits_kernel(const std::uint32_t* bits, std::int64_t size, std::uint32_t* kept_of_unit) {
  __shared__ unsigned shared[block_warps];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (pack_unit / 32);
  const std::int64_t words = (size + 31) / 32;
  unsigned kept = 0;
  for (std::int64_t word = first + threadIdx.x; word < first + pack_unit / 32 && word < words;
       word += blockDim.x)
    kept += static_cast<unsigned>(__popc(bits[word]));
  kept = block_reduce(kept, Sum{}, shared);
  if (threadIdx.x == 0) kept_of_unit[blockIdx.x] = kept;
}

/// One block walks over all units.
__global__ void __launch_bounds__(block_threads)
    exclusive_sum_kernel(const std::uint32_t* counts, std::int64_t units, unsigned long long* starts) {
  __shared__ unsigned long long shared[block_warps];
  unsigned long long before = 0;
  for (std::int64_t tile = 0; tile < units; tile += blockDim.x) {
    const std::int64_t unit = tile + threadIdx.x;
    unsigned long long total = 0;
    const unsigned long long own = unit < units ? counts[unit] : 0;
    const unsigned long long start = before + block_exclusive_sum(own, shared, total);
    if (unit < units) starts[unit] = start;
    before += total;
  }
  if (threadIdx.x == 0) starts[units] = before;
}

template <DType type>
__global__ void __launch_bounds__(block_threads)
    compress_kernel(ConstFloats w, const std::uint32_t* bits, const unsigned long long* starts,
                    typename Stored<type>::Value* values) {
  for_places(bits, w.size(), starts[blockIdx.x], [&](std::int64_t index, bool set, unsigned long long place) {
    if (set) values[place] = Stored<type>::narrow(w.flat(index));
  });
}

template <DType type>
__global__ void __launch_bounds__(block_threads)
    expand_kernel(const std::uint32_t* bits, const unsigned long long* starts,
                  const typename Stored<type>::Value* values, Floats w) {
  for_places(bits, w.size(), starts[blockIdx.x], [&](std::int64_t index, bool set, unsigned long long place) {
    w.flat(index) = set ? Stored<type>::widen(values[place]) : 0.0F;
  });
}

struct BitsToMask {
  const std::uint32_t* bits;
  Masks mask;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    mask.at(row, column) = bit_at(bits, row * mask.cols + column) ? 1 : 0;
  }
};

template <DType type>
void compress_as(cudaStream_t stream, ConstFloats w, const std::uint32_t* bits,
                 const unsigned long long* starts, void* values) {
  launch(stream, pack_units(w.size()).geometry(), compress_kernel<type>, w, bits, starts,
         static_cast<typename Stored<type>::Value*>(values));
}

template <DType type>
void expand_as(cudaStream_t stream, const std::uint32_t* bits, const unsigned long long* starts,
               const void* values, Floats w) {
  launch(stream, pack_units(w.size()).geometry(), expand_kernel<type>, bits, starts,
         static_cast<const typename Stored<type>::Value*>(values), w);
}

}  // namespace

void pack_bits(cudaStream_t stream, ConstMasks mask, std::uint32_t* bits, std::uint32_t* kept_of_unit) {
  launch(stream, pack_units(mask.size()).geometry(), pack_bits_kernel, mask, bits, kept_of_unit);
}

void count_bits(cudaStream_t stream, const std::uint32_t* bits, std::int64_t size,
                std::uint32_t* kept_of_unit) {
  launch(stream, pack_units(size).geometry(), count_bits_kernel, bits, size, kept_of_unit);
}

void exclusive_sum(cudaStream_t stream, const std::uint32_t* counts, std::int64_t units,
                   unsigned long long* starts) {
  launch(stream, block_geometry(1), exclusive_sum_kernel, counts, units, starts);
}

void compress(cudaStream_t stream, ConstFloats w, const std::uint32_t* bits, const unsigned long long* starts,
              DType type, void* values) {
  switch (type) {
    case DType::f32:
      return compress_as<DType::f32>(stream, w, bits, starts, values);
    case DType::f16:
      return compress_as<DType::f16>(stream, w, bits, starts, values);
    case DType::bf16:
      return compress_as<DType::bf16>(stream, w, bits, starts, values);
  }
}

void expand(cudaStream_t stream, const std::uint32_t* bits, const unsigned long long* starts,
            const void* values, DType type, Floats w) {
  switch (type) {
    case DType::f32:
      return expand_as<DType::f32>(stream, bits, starts, values, w);
    case DType::f16:
      return expand_as<DType::f16>(stream, bits, starts, values, w);
    case DType::bf16:
      return expand_as<DType::bf16>(stream, bits, starts, values, w);
  }
}

void bits_to_mask(cudaStream_t stream, const std::uint32_t* bits, Masks mask) {
  flatten(mask);
  for_each_element(stream, mask.rows, mask.cols, BitsToMask{bits, mask});
}

}  // namespace fedspallm::backend::cuda
