// SPDX-License-Identifier: Apache-2.0
// The n-th smallest score by radix selection: three histograms of 11, 11 and 10 bits of an order-preserving
// key; the host waits for none of them. Ties go by index: only when some equal scores stay are they ranked.
#include "block_ops.cuh"
#include "elements.hpp"
#include "kernels.hpp"
#include "launch.cuh"
#include "radix.cuh"

namespace fedspallm::backend::cuda {

namespace {

constexpr Digit digits[select_digits] = {{select_digit_shift[0], select_digit_bits[0]},
                                         {select_digit_shift[1], select_digit_bits[1]},
                                         {select_digit_shift[2], select_digit_bits[2]}};

__global__ void __launch_bounds__(block_threads)
    start_kernel(SelectionState* state, std::uint32_t* histogram, unsigned long long index) {
  start_selection(state, histogram, {0, index, 0});
}

__global__ void __launch_bounds__(block_threads)
    histogram_kernel(ConstFloats score, Units units, Digit digit, const SelectionState* state,
                     std::uint32_t* histogram) {
  add_digits(
      units, digit, state->key, histogram, [](std::int64_t) { return true; },
      [&](std::int64_t i) { return order_key(score.flat(i)); });
}

__global__ void __launch_bounds__(block_threads)
    take_bin_kernel(std::uint32_t* histogram, Digit digit, SelectionState* state) {
  __shared__ unsigned long long shared[block_warps];
  take_bin(histogram, digit, state, shared);
}

/// How many of the scores that equal the key go.
[[nodiscard]] __device__ unsigned long long equal_to_drop(const SelectionState& state, bool published) {
  return published ? state.equal : state.remaining + 1;
}

__global__ void __launch_bounds__(block_threads)
    count_equal_kernel(ConstFloats score, Units units, bool published, const SelectionState* state,
                       std::uint32_t* equal_of_unit) {
  __shared__ unsigned shared[block_warps];
  const SelectionState found = *state;
  if (equal_to_drop(found, published) == found.equal) {  // all go: nobody asks which come first
    if (threadIdx.x == 0) equal_of_unit[blockIdx.x] = 0;
    return;
  }
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * units.unit;
  const std::int64_t last = first + units.unit < units.size ? first + units.unit : units.size;
  unsigned equal = 0;
  for (std::int64_t i = first + threadIdx.x; i < last; i += blockDim.x)
    equal += order_key(score.flat(i)) == found.key ? 1U : 0U;
  equal = block_reduce(equal, Sum{}, shared);
  if (threadIdx.x == 0) equal_of_unit[blockIdx.x] = equal;
}

/// mask over the flat elements [first, last); `before` equal scores came earlier, the first `drop` go.
__device__ void write_mask(ConstFloats score, std::int64_t first, std::int64_t last, std::uint32_t key,
                           unsigned long long before, unsigned long long drop, bool all_equal_go,
                           unsigned* shared, Masks mask) {
  for (std::int64_t tile = first; tile < last; tile += blockDim.x) {
    const std::int64_t i = tile + threadIdx.x;
    const std::uint32_t own = i < last ? order_key(score.flat(i)) : ~0U;
    bool goes = own < key || (all_equal_go && own == key);
    if (!all_equal_go) {  // the same for the whole block
      unsigned total = 0;
      const unsigned rank = block_rank(i < last && own == key, shared, total);
      goes = goes || (own == key && before + rank < drop);
      before += total;
    }
    if (i < last) mask.flat(i) = goes ? 0 : 1;
  }
}

__global__ void __launch_bounds__(block_threads)
    write_mask_kernel(ConstFloats score, Units units, bool published, const SelectionState* state,
                      const unsigned long long* equal_before, Masks mask) {
  __shared__ unsigned shared[block_warps];
  const SelectionState found = *state;
  const unsigned long long drop = equal_to_drop(found, published);
  const bool all = drop == found.equal;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * units.unit;
  const std::int64_t last = first + units.unit < units.size ? first + units.unit : units.size;
  write_mask(score, first, last, found.key, all ? 0 : equal_before[blockIdx.x], drop, all, shared, mask);
}

/// One block a row, the whole selection in it.
__global__ void __launch_bounds__(block_threads)
    select_in_rows_kernel(ConstFloats score, const std::int64_t* counts, Masks mask) {
  __shared__ std::uint32_t histogram[select_bins];
  __shared__ unsigned long long shared_sums[block_warps];
  __shared__ unsigned shared_ranks[block_warps];
  __shared__ SelectionState state;
  const std::int64_t row = blockIdx.x;
  const std::int64_t count = counts[row];
  const ConstFloats scores{score.data + row * score.stride, 1, score.cols, score.cols};
  const Masks own{mask.data + row * mask.stride, 1, mask.cols, mask.cols};
  if (count == 0) {  // the same for the whole block
    for (std::int64_t i = threadIdx.x; i < own.cols; i += blockDim.x) own.data[i] = 1;
    return;
  }
  if (threadIdx.x == 0) state = {0, static_cast<unsigned long long>(count - 1), 0};
  for (unsigned bin = threadIdx.x; bin < select_bins; bin += blockDim.x) histogram[bin] = 0;
  __syncthreads();
  const auto narrow = [&](Digit digit) {
    const std::uint32_t known = state.key;
    for (std::int64_t i = threadIdx.x; i < scores.cols; i += blockDim.x) {
      const std::uint32_t key = order_key(scores.data[i]);
      if (digit.shares_prefix(key, known)) atomicAdd(&histogram[digit.of(key)], 1U);
    }
    __syncthreads();
    take_bin(histogram, digit, &state, shared_sums);
  };
  narrow({select_digit_shift[0], select_digit_bits[0]});
  narrow({select_digit_shift[1], select_digit_bits[1]});
  narrow({select_digit_shift[2], select_digit_bits[2]});
  const unsigned long long drop = equal_to_drop(state, false);
  write_mask(scores, 0, scores.cols, state.key, 0, drop, drop == state.equal, shared_ranks, own);
}

}  // namespace

std::size_t SelectionWorkspace::bytes(std::int64_t units) {
  Layout layout;
  layout.add<SelectionState>(1);
  layout.add<std::uint32_t>(select_bins);
  layout.add<std::uint32_t>(units);
  layout.add<unsigned long long>(units + 1);
  return layout.bytes();
}

SelectionWorkspace SelectionWorkspace::at(std::byte* memory, std::int64_t units) {
  Layout layout;
  SelectionWorkspace workspace{};
  workspace.state = reinterpret_cast<SelectionState*>(memory + layout.add<SelectionState>(1));
  workspace.histogram = reinterpret_cast<std::uint32_t*>(memory + layout.add<std::uint32_t>(select_bins));
  workspace.equal_of_unit = reinterpret_cast<std::uint32_t*>(memory + layout.add<std::uint32_t>(units));
  workspace.equal_before =
      reinterpret_cast<unsigned long long*>(memory + layout.add<unsigned long long>(units + 1));
  return workspace;
}

void select(cudaStream_t stream, ConstFloats score, std::int64_t index, bool published,
            const SelectionWorkspace& workspace, Masks mask) {
  const Units units = select_units(score.size());
  launch(stream, block_geometry(1), start_kernel, workspace.state, workspace.histogram,
         static_cast<unsigned long long>(index));
  for (const Digit digit : digits) {
    launch(stream, units.geometry(), histogram_kernel, score, units, digit, workspace.state,
           workspace.histogram);
    launch(stream, block_geometry(1), take_bin_kernel, workspace.histogram, digit, workspace.state);
  }
  launch(stream, units.geometry(), count_equal_kernel, score, units, published, workspace.state,
         workspace.equal_of_unit);
  exclusive_sum(stream, workspace.equal_of_unit, units.count(), workspace.equal_before);
  launch(stream, units.geometry(), write_mask_kernel, score, units, published, workspace.state,
         workspace.equal_before, mask);
}

void select_in_rows(cudaStream_t stream, ConstFloats score, const std::int64_t* counts, Masks mask) {
  launch(stream, block_geometry(score.cols == 0 ? 0 : score.rows), select_in_rows_kernel, score, counts,
         mask);
}

}  // namespace fedspallm::backend::cuda
