// SPDX-License-Identifier: Apache-2.0
// From sums to a merged matrix: averages and votes, where the votes' last level is cut (radix selection),
// bits and packed elements. Integers, and doubles as base/merge_elements.hpp has them: the CPU's bits.
#include "kernels.hpp"
#include "launch.cuh"
#include "packed.cuh"
#include "radix.cuh"

namespace fedspallm::backend::cuda {

namespace {

constexpr std::int64_t tile_weights = 64;
constexpr std::int64_t tile_sum_bytes = tile_weights * 8;
constexpr std::int64_t tile_bytes = tile_sum_bytes + tile_weights * 4;

constexpr Digit digits[merge_digits] = {
    {merge_digit_shift[0], merge_digit_bits[0]}, {merge_digit_shift[1], merge_digit_bits[1]},
    {merge_digit_shift[2], merge_digit_bits[2]}, {merge_digit_shift[3], merge_digit_bits[3]},
    {merge_digit_shift[4], merge_digit_bits[4]}, {merge_digit_shift[5], merge_digit_bits[5]}};

__device__ void store_mean(const MergedWeights& weights, std::int64_t index, double mean) {
  switch (weights.type) {
    case DType::f32:
      reinterpret_cast<float*>(weights.elements)[index] = static_cast<float>(mean);
      return;
    case DType::f16:
      reinterpret_cast<std::uint16_t*>(weights.elements)[index] = mean_to_f16(mean);
      return;
    case DType::bf16:
      reinterpret_cast<std::uint16_t*>(weights.elements)[index] = mean_to_bf16(mean);
      return;
  }
}

[[nodiscard]] __device__ float element_at(const MergedWeights& weights, std::int64_t index) {
  switch (weights.type) {
    case DType::f32:
      return reinterpret_cast<const float*>(weights.elements)[index];
    case DType::f16:
      return widen_f16(reinterpret_cast<const std::uint16_t*>(weights.elements)[index]);
    case DType::bf16:
      return widen_bf16(reinterpret_cast<const std::uint16_t*>(weights.elements)[index]);
  }
  return 0.0F;
}

__device__ void store_votes(const MergedWeights& weights, std::int64_t index, std::uint32_t votes) {
  if (weights.vote_width == 1)
    reinterpret_cast<std::uint8_t*>(weights.votes)[index] = static_cast<std::uint8_t>(votes);
  else if (weights.vote_width == 2)
    reinterpret_cast<std::uint16_t*>(weights.votes)[index] = static_cast<std::uint16_t>(votes);
  else
    reinterpret_cast<std::uint32_t*>(weights.votes)[index] = votes;
}

/// How many clients kept a weight.
[[nodiscard]] __device__ std::uint32_t kept_at(const MergedWeights& weights, std::int64_t index) {
  const std::uint32_t votes =
      weights.vote_width == 1   ? reinterpret_cast<const std::uint8_t*>(weights.votes)[index]
      : weights.vote_width == 2 ? reinterpret_cast<const std::uint16_t*>(weights.votes)[index]
                                : reinterpret_cast<const std::uint32_t*>(weights.votes)[index];
  return weights.clients - votes;
}

/// The column of a row-major index. 32-bit division where it does: a 64-bit one costs some 100 instructions.
[[nodiscard]] __device__ std::int64_t column_of(const MergedWeights& weights, std::int64_t index) {
  if (index <= 0xffffffffLL && weights.cols <= 0xffffffffLL)
    return static_cast<std::uint32_t>(index) % static_cast<std::uint32_t>(weights.cols);
  return index % weights.cols;
}

[[nodiscard]] __device__ std::uint64_t key_at(const MergedWeights& weights, std::int64_t index) {
  if (weights.tie == UpdateOps::Tie::index) return 0;
  const float value = element_at(weights, index);
  if (weights.tie == UpdateOps::Tie::magnitude) return magnitude_key(value);
  return score_key(value, static_cast<double>(weights.column_weights[column_of(weights, index)]));
}

__global__ void __launch_bounds__(block_threads)
    average_kernel(const std::byte* tiles, double factor, std::uint32_t divisor, MergedWeights weights,
                   unsigned long long* histogram) {
  __shared__ std::uint32_t own[select_bins];
  const unsigned bins = weights.clients + 2;
  const bool few = bins <= select_bins;  // else counts go where they belong at once
  for (unsigned bin = threadIdx.x; few && bin < bins; bin += blockDim.x) own[bin] = 0;
  __syncthreads();
  for (std::int64_t offset = threadIdx.x; offset < pack_unit; offset += blockDim.x) {
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * pack_unit + offset;
    if (index >= weights.size) continue;
    const std::byte* tile = tiles + index / tile_weights * tile_bytes;
    const std::int64_t sum = reinterpret_cast<const std::int64_t*>(tile)[index % tile_weights];
    const std::uint32_t kept =
        reinterpret_cast<const std::uint32_t*>(tile + tile_sum_bytes)[index % tile_weights];
    store_mean(weights, index, mean_of(sum, divisor != 0 ? divisor : kept != 0 ? kept : 1U, factor));
    store_votes(weights, index, weights.clients - kept);
    const unsigned bin = kept <= weights.clients ? kept : weights.clients + 1;
    if (few)
      atomicAdd(&own[bin], 1U);
    else
      atomicAdd(&histogram[bin], 1ULL);
  }
  __syncthreads();
  for (unsigned bin = threadIdx.x; few && bin < bins; bin += blockDim.x)
    if (own[bin] != 0) atomicAdd(&histogram[bin], static_cast<unsigned long long>(own[bin]));
}

__global__ void __launch_bounds__(block_threads)
    start_kernel(MergeState* state, std::uint32_t* histogram, unsigned long long rank,
                 unsigned long long equal) {
  start_selection(state, histogram, {0, rank, equal});
}

__global__ void __launch_bounds__(block_threads)
    histogram_kernel(MergedWeights weights, std::uint32_t level, Units units, Digit digit,
                     const MergeState* state, std::uint32_t* histogram) {
  add_digits(
      units, digit, state->key, histogram, [&](std::int64_t i) { return kept_at(weights, i) == level; },
      [&](std::int64_t i) { return key_at(weights, i); });
}

__global__ void __launch_bounds__(block_threads)
    take_bin_kernel(std::uint32_t* histogram, Digit digit, MergeState* state) {
  __shared__ unsigned long long shared[block_warps];
  take_bin(histogram, digit, state, shared);
}

/// How many of the weights with the cut's key go.
[[nodiscard]] __device__ unsigned long long equal_to_drop(const MergeState& state) {
  return state.remaining + 1;
}

__global__ void __launch_bounds__(block_threads)
    count_cut_kernel(MergedWeights weights, std::uint32_t level, const MergeState* state,
                     std::uint32_t* equal_of_unit) {
  __shared__ unsigned shared[block_warps];
  const MergeState found = *state;
  unsigned equal = 0;
  if (equal_to_drop(found) != found.equal)  // else all go: nobody asks which come first
    for (std::int64_t offset = threadIdx.x; offset < pack_unit; offset += blockDim.x) {
      const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * pack_unit + offset;
      if (index >= weights.size || kept_at(weights, index) != level) continue;
      equal += key_at(weights, index) == found.key ? 1U : 0U;
    }
  equal = block_reduce(equal, Sum{}, shared);
  if (threadIdx.x == 0) equal_of_unit[blockIdx.x] = equal;
}

__global__ void __launch_bounds__(block_threads)
    mark_kernel(MergedWeights weights, std::uint32_t level, const MergeState* state,
                const unsigned long long* equal_before, std::uint32_t* bits, std::uint32_t* kept_of_unit) {
  __shared__ unsigned shared[block_warps];
  const bool cut = state != nullptr;
  const MergeState found = cut ? *state : MergeState{0, 0, 0};
  const bool all_equal_go = cut && equal_to_drop(found) == found.equal;
  unsigned long long before = cut && !all_equal_go ? equal_before[blockIdx.x] : 0;
  write_bits(weights.size, bits, kept_of_unit, [&](std::int64_t index) {
    const std::uint32_t kept = index < weights.size ? kept_at(weights, index) : 0;
    if (!cut) return kept > level;  // the same for the whole block, as the next one
    const bool tied = index < weights.size && kept == level;
    const std::uint64_t key = tied ? key_at(weights, index) : 0;
    bool stays = kept > level || (tied && key > found.key);
    if (!all_equal_go) {
      const bool equal = tied && key == found.key;
      unsigned total = 0;
      const unsigned rank = block_rank(equal, shared, total);
      stays = stays || (equal && before + rank >= equal_to_drop(found));
      before += total;
    }
    return stays;
  });
}

__global__ void __launch_bounds__(block_threads)
    mark_groups_kernel(MergedWeights weights, int keep, int group, std::uint32_t* bits,
                       std::uint32_t* kept_of_unit, GroupFacts* facts) {
  __shared__ unsigned shared[block_warps];
  unsigned gone = 0, above = 0;
  write_bits(weights.size, bits, kept_of_unit, [&](std::int64_t index) {
    if (index >= weights.size) return false;
    const auto element = static_cast<int>(column_of(weights, index) % group);
    const std::int64_t first = index - element;
    int kept = 0;
    for (int i = 0; i < group; ++i) kept += kept_at(weights, first + i) != 0 ? 1 : 0;
    if (kept < keep) above = 1;
    if (kept_at(weights, index) == 0) return false;
    const bool goes = goes_from_group(element, keep, group, kept, [&](int i) {
      return MergeOrder{kept_at(weights, first + i), key_at(weights, first + i)};
    });
    gone += goes ? 1U : 0U;
    return !goes;
  });
  gone = block_reduce(gone, Sum{}, shared);
  above = block_reduce(above, Sum{}, shared);
  if (threadIdx.x != 0) return;
  atomicAdd(&facts->expanded, static_cast<unsigned long long>(gone));
  if (above != 0) atomicMax(&facts->above_target, 1U);
}

template <class Element>
__global__ void __launch_bounds__(block_threads)
    gather_kernel(const Element* elements, std::int64_t size, const std::uint32_t* bits,
                  const unsigned long long* starts, Element* values) {
  for_places(bits, size, starts[blockIdx.x], [&](std::int64_t index, bool set, unsigned long long place) {
    if (set) values[place] = elements[index];
  });
}

template <class Element>
void gather_as(cudaStream_t stream, const MergedWeights& weights, const std::uint32_t* bits,
               const unsigned long long* starts, std::byte* values) {
  launch(stream, pack_units(weights.size).geometry(), gather_kernel<Element>,
         reinterpret_cast<const Element*>(weights.elements), weights.size, bits, starts,
         reinterpret_cast<Element*>(values));
}

}  // namespace

void average(cudaStream_t stream, const std::byte* tiles, int q, std::uint32_t divisor,
             const MergedWeights& weights, unsigned long long* histogram) {
  launch(stream, pack_units(weights.size).geometry(), average_kernel, tiles, power_of_two(q), divisor,
         weights, histogram);
}

void find_cut(cudaStream_t stream, const MergedWeights& weights, std::uint32_t level, unsigned long long rank,
              unsigned long long equal, MergeState* state, std::uint32_t* histogram) {
  const Units units = select_units(weights.size);
  launch(stream, block_geometry(1), start_kernel, state, histogram, rank, equal);
  if (weights.tie == UpdateOps::Tie::index) return;  // all keys are equal
  for (const Digit digit : digits) {
    launch(stream, units.geometry(), histogram_kernel, weights, level, units, digit, state, histogram);
    launch(stream, block_geometry(1), take_bin_kernel, histogram, digit, state);
  }
}

void count_cut(cudaStream_t stream, const MergedWeights& weights, std::uint32_t level,
               const MergeState* state, std::uint32_t* equal_of_unit) {
  launch(stream, pack_units(weights.size).geometry(), count_cut_kernel, weights, level, state, equal_of_unit);
}

void mark(cudaStream_t stream, const MergedWeights& weights, std::uint32_t level, const MergeState* state,
          const unsigned long long* equal_before, std::uint32_t* bits, std::uint32_t* kept_of_unit) {
  launch(stream, pack_units(weights.size).geometry(), mark_kernel, weights, level, state, equal_before, bits,
         kept_of_unit);
}

void mark_groups(cudaStream_t stream, const MergedWeights& weights, int keep, int group, std::uint32_t* bits,
                 std::uint32_t* kept_of_unit, GroupFacts* facts) {
  launch(stream, pack_units(weights.size).geometry(), mark_groups_kernel, weights, keep, group, bits,
         kept_of_unit, facts);
}

void gather_elements(cudaStream_t stream, const MergedWeights& weights, const std::uint32_t* bits,
                     const unsigned long long* starts, std::byte* values) {
  if (weights.type == DType::f32) return gather_as<std::uint32_t>(stream, weights, bits, starts, values);
  gather_as<std::uint16_t>(stream, weights, bits, starts, values);
}

}  // namespace fedspallm::backend::cuda
