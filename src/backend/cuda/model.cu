// SPDX-License-Identifier: Apache-2.0
// The pieces of a decoder block that are not matrix products.
#include "block_ops.cuh"
#include "elements.hpp"
#include "kernels.hpp"
#include "launch.cuh"

namespace fedspallm::backend::cuda {

namespace {

/// One block a row. In place: a thread reads and writes its own columns only, and reads all of them first.
template <Norm kind>
__global__ void __launch_bounds__(block_threads)
    norm_kernel(ConstFloats x, const float* weight, const float* bias, float epsilon, Floats y) {
  __shared__ float shared[block_warps];
  const std::int64_t row = blockIdx.x;
  const float* in = x.data + row * x.stride;
  float* out = y.data + row * y.stride;
  const auto cols = static_cast<float>(x.cols);
  float mean = 0.0F;
  if (kind == Norm::layer) {
    float sum = 0.0F;
    for (std::int64_t c = threadIdx.x; c < x.cols; c += blockDim.x) sum += in[c];
    mean = block_reduce(sum, Sum{}, shared) / cols;
  }
  float squares = 0.0F;
  for (std::int64_t c = threadIdx.x; c < x.cols; c += blockDim.x) {
    const float centred = in[c] - mean;
    squares += centred * centred;
  }
  const float factor = 1.0F / sqrtf(block_reduce(squares, Sum{}, shared) / cols + epsilon);
  for (std::int64_t c = threadIdx.x; c < x.cols; c += blockDim.x) {
    const float value = (in[c] - mean) * factor * weight[c];
    out[c] = bias == nullptr ? value : value + bias[c];
  }
}

struct Rotate {
  ConstFloats cosine, sine;
  Floats x;
  __device__ void operator()(std::int64_t row, std::int64_t pair) const {
    const auto half = static_cast<std::uint32_t>(cosine.cols);
    const std::uint32_t head = static_cast<std::uint32_t>(pair) / half;
    const std::uint32_t i = static_cast<std::uint32_t>(pair) % half;
    const std::int64_t position = row % cosine.rows;
    float* first = x.data + row * x.stride + static_cast<std::int64_t>(head) * 2 * half + i;
    float* second = first + half;
    const float c = cosine.at(position, i), s = sine.at(position, i);
    const float a = *first, b = *second;
    *first = a * c - b * s;
    *second = b * c + a * s;
  }
};

struct SiluMultiply {
  ConstFloats up;
  Floats gate;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    float& value = gate.at(row, column);
    value = silu(value) * up.at(row, column);
  }
};

template <Activation kind>
struct Activate {
  Floats x;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    float& value = x.at(row, column);
    value = kind == Activation::relu ? relu(value) : gelu(value);
  }
};

struct Add {
  ConstFloats x;
  Floats y;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    y.at(row, column) += x.at(row, column);
  }
};

/// One block a row: largest logit, then the sum of exponentials in double.
__global__ void __launch_bounds__(block_threads)
    nll_kernel(ConstFloats logits, const std::int32_t* targets, double* nll) {
  __shared__ float shared_largest[block_warps];
  __shared__ double shared_sum[block_warps];
  const std::int64_t row = blockIdx.x;
  const float* values = logits.data + row * logits.stride;
  const std::int32_t target = targets[row];
  if (target < 0) {  // the same for the whole block
    if (threadIdx.x == 0) nll[row] = 0.0;
    return;
  }
  float largest = -INFINITY;
  for (std::int64_t c = threadIdx.x; c < logits.cols; c += blockDim.x) largest = fmaxf(largest, values[c]);
  largest = block_reduce(largest, Largest{}, shared_largest);
  double sum = 0.0;
  for (std::int64_t c = threadIdx.x; c < logits.cols; c += blockDim.x)
    sum += static_cast<double>(expf(values[c] - largest));
  sum = block_reduce(sum, Sum{}, shared_sum);
  if (threadIdx.x == 0)
    nll[row] = static_cast<double>(largest) + log(sum) - static_cast<double>(values[target]);
}

struct FirstNonFinite {
  ConstFloats x;
  unsigned long long* first;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    if (!is_finite(x.at(row, column)))
      atomicMin(first, static_cast<unsigned long long>(row * x.cols + column));
  }
};

/// Where weights go: to the scores themselves, or narrowed to memory of their own.
struct WeightsInPlace {
  __device__ void operator()(float* scores, std::int64_t, std::int64_t column, float weight) const {
    scores[column] = weight;
  }
};
template <DType type>
struct NarrowedWeights {
  std::uint16_t* weights;
  std::int64_t cols;
  __device__ void operator()(float*, std::int64_t row, std::int64_t column, float weight) const {
    weights[row * cols + column] = type == DType::bf16 ? narrow_bf16(weight) : narrow_f16(weight);
  }
};

/// One block a row of scores.
template <class Write>
__global__ void __launch_bounds__(block_threads)
    softmax_kernel(AttentionTile tile, Floats scores, Write write) {
  __shared__ float shared[block_warps];
  const std::int64_t row = blockIdx.x;
  float* values = scores.data + row * scores.stride;
  const std::int64_t query = tile.first_query + row % tile.tile;
  const std::int64_t oldest = tile.window > 0 && query >= tile.window ? query - tile.window + 1 : 0;
  const std::int64_t begin = oldest > tile.first_key ? oldest - tile.first_key : 0;
  const std::int64_t end = query - tile.first_key + 1;
  float largest = -INFINITY;
  for (std::int64_t c = begin + threadIdx.x; c < end; c += blockDim.x) largest = fmaxf(largest, values[c]);
  largest = block_reduce(largest, Largest{}, shared);
  float sum = 0.0F;
  for (std::int64_t c = begin + threadIdx.x; c < end; c += blockDim.x) {
    const float weight = expf((values[c] - largest) * tile.scale);
    values[c] = weight;
    sum += weight;
  }
  const float factor = 1.0F / block_reduce(sum, Sum{}, shared);
  // The sum above ran over other columns than this loop: block_reduce has synchronised in between.
  for (std::int64_t c = threadIdx.x; c < scores.cols; c += blockDim.x)
    write(values, row, c, c >= begin && c < end ? values[c] * factor : 0.0F);
}

}  // namespace

void norm_rows(cudaStream_t stream, Norm kind, ConstFloats x, const float* weight, const float* bias,
               float epsilon, Floats y) {
  if (x.cols == 0) return;
  launch(stream, row_geometry(x.rows, x.cols),
         kind == Norm::rms ? norm_kernel<Norm::rms> : norm_kernel<Norm::layer>, x, weight, bias, epsilon, y);
}

void rotate(cudaStream_t stream, ConstFloats cosine, ConstFloats sine, std::int64_t heads, Floats x) {
  for_each_element(stream, x.rows, heads * cosine.cols, Rotate{cosine, sine, x});
}

void silu_multiply(cudaStream_t stream, ConstFloats up, Floats gate) {
  flatten(up, gate);
  for_each_element(stream, gate.rows, gate.cols, SiluMultiply{up, gate});
}

void activate(cudaStream_t stream, Activation kind, Floats x) {
  flatten(x);
  if (kind == Activation::relu)
    for_each_element(stream, x.rows, x.cols, Activate<Activation::relu>{x});
  else
    for_each_element(stream, x.rows, x.cols, Activate<Activation::gelu>{x});
}

void add_elements(cudaStream_t stream, ConstFloats x, Floats y) {
  flatten(x, y);
  for_each_element(stream, y.rows, y.cols, Add{x, y});
}

void nll_of_rows(cudaStream_t stream, ConstFloats logits, const std::int32_t* targets, double* nll) {
  launch(stream, row_geometry(logits.rows, logits.cols), nll_kernel, logits, targets, nll);
}

void first_non_finite(cudaStream_t stream, ConstFloats x, unsigned long long* first) {
  check_cuda(cudaMemsetAsync(first, 0xff, sizeof *first, stream), "cudaMemsetAsync");
  flatten(x);
  for_each_element(stream, x.rows, x.cols, FirstNonFinite{x, first});
}

namespace {

template <class Write>
void softmax(cudaStream_t stream, const AttentionTile& tile, const Floats& scores, Write write) {
  launch(stream, row_geometry(scores.rows, scores.cols), softmax_kernel<Write>, tile, scores, write);
}

}  // namespace

void softmax_rows(cudaStream_t stream, AttentionTile tile, Floats scores) {
  softmax(stream, tile, scores, WeightsInPlace{});
}

void softmax_rows(cudaStream_t stream, AttentionTile tile, Floats scores, DType type,
                  std::uint16_t* weights) {
  if (type == DType::bf16)
    softmax(stream, tile, scores, NarrowedWeights<DType::bf16>{weights, scores.cols});
  else
    softmax(stream, tile, scores, NarrowedWeights<DType::f16>{weights, scores.cols});
}

}  // namespace fedspallm::backend::cuda
