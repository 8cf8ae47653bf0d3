// SPDX-License-Identifier: Apache-2.0
// Scores, masks and sums. Scores are single roundings in a fixed order: the same bits as on the CPU.
#include "block_ops.cuh"
#include "elements.hpp"
#include "kernels.hpp"
#include "launch.cuh"

namespace fedspallm::backend::cuda {

namespace {

struct SaliencyScore {
  ConstFloats w;
  const float* diagonal;
  Floats score;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    score.at(row, column) = saliency(w.at(row, column), diagonal[column]);
  }
};

struct MagnitudeScore {
  ConstFloats w;
  const float* factor;
  Floats score;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    score.at(row, column) = fabsf(w.at(row, column)) * factor[column];
  }
};

struct PreferDropped {
  ConstMasks previous;
  Floats score;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    if (previous.at(row, column) == 0) score.at(row, column) = -1.0F;
  }
};

struct KeepNOfM {
  ConstFloats score;
  int keep, m;
  Masks mask;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const int element = static_cast<int>(column % m);
    const float* group = &score.at(row, column - element);
    mask.at(row, column) = kept_in_group(element, keep, m, [&](int i) { return group[i]; }) ? 1 : 0;
  }
};

struct ApplyMask {
  ConstMasks mask;
  Floats w;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    if (mask.at(row, column) == 0) w.at(row, column) = 0.0F;
  }
};

struct Round {
  DType type;
  Floats w;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    w.at(row, column) = round_element(type, w.at(row, column));
  }
};

__global__ void __launch_bounds__(block_threads)
    squares_of_unit_kernel(ConstFloats x, Units units, double* partial) {
  __shared__ double shared[block_warps];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * units.unit;
  const std::int64_t last = first + units.unit < units.size ? first + units.unit : units.size;
  double sum = 0.0;
  for (std::int64_t i = first + threadIdx.x; i < last; i += blockDim.x) {
    const auto value = static_cast<double>(x.flat(i));
    sum += value * value;
  }
  sum = block_reduce(sum, Sum{}, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(block_threads)
    add_sum_kernel(const double* values, std::int64_t count, double* total) {
  __shared__ double shared[block_warps];
  double sum = 0.0;
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += values[i];
  sum = block_reduce(sum, Sum{}, shared);
  if (threadIdx.x == 0) *total += sum;
}

}  // namespace

void saliency_scores(cudaStream_t stream, ConstFloats w, const float* diagonal, Floats score) {
  for_each_element(stream, w.rows, w.cols, SaliencyScore{w, diagonal, score});
}

void magnitude_scores(cudaStream_t stream, ConstFloats w, const float* factor, Floats score) {
  for_each_element(stream, w.rows, w.cols, MagnitudeScore{w, factor, score});
}

void prefer_dropped(cudaStream_t stream, ConstMasks previous, Floats score) {
  flatten(previous, score);
  for_each_element(stream, score.rows, score.cols, PreferDropped{previous, score});
}

void keep_n_of_m(cudaStream_t stream, ConstFloats score, int keep, int m, Masks mask) {
  for_each_element(stream, score.rows, score.cols, KeepNOfM{score, keep, m, mask});
}

void apply_mask(cudaStream_t stream, ConstMasks mask, Floats w) {
  flatten(mask, w);
  for_each_element(stream, w.rows, w.cols, ApplyMask{mask, w});
}

void round_elements(cudaStream_t stream, DType type, Floats w) {
  flatten(w);
  for_each_element(stream, w.rows, w.cols, Round{type, w});
}

void add_squares(cudaStream_t stream, ConstFloats x, double* partial, double* sum) {
  const Units units = sum_units(x.size());
  launch(stream, units.geometry(), squares_of_unit_kernel, x, units, partial);
  launch(stream, block_geometry(1), add_sum_kernel, partial, units.count(), sum);
}

}  // namespace fedspallm::backend::cuda
