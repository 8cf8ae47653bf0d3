// SPDX-License-Identifier: Apache-2.0
// Copies, fills and conversions of element types.
#include "elements.hpp"
#include "kernels.hpp"
#include "launch.cuh"

namespace fedspallm::backend::cuda {

namespace {

template <class T>
struct Copy {
  Strided<const T> from;
  Strided<T> to;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    to.at(row, column) = from.at(row, column);
  }
};

template <class T>
struct Fill {
  T value;
  Strided<T> to;
  __device__ void operator()(std::int64_t row, std::int64_t column) const { to.at(row, column) = value; }
};

template <DType type>
struct Widen {
  const std::uint16_t* from;
  Floats to;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const std::uint16_t bits = from[row * to.cols + column];
    to.at(row, column) = type == DType::bf16 ? widen_bf16(bits) : widen_f16(bits);
  }
};

template <DType type>
struct Narrow {
  ConstFloats from;
  std::uint16_t* to;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const float value = from.at(row, column);
    to[row * from.cols + column] = type == DType::bf16 ? narrow_bf16(value) : narrow_f16(value);
  }
};

struct StartRow {
  const float* row_vector;
  bool add;
  Floats to;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const float value = row_vector == nullptr ? 0.0F : row_vector[column];
    to.at(row, column) = add ? to.at(row, column) + value : value;
  }
};

template <class T>
void copy(cudaStream_t stream, Strided<const T> from, Strided<T> to) {
  flatten(from, to);
  for_each_element(stream, to.rows, to.cols, Copy<T>{from, to});
}

template <class T>
void fill(cudaStream_t stream, T value, Strided<T> to) {
  flatten(to);
  for_each_element(stream, to.rows, to.cols, Fill<T>{value, to});
}

}  // namespace

void copy_elements(cudaStream_t stream, ConstFloats from, Floats to) {
  copy(stream, from, to);
}
void copy_elements(cudaStream_t stream, ConstMasks from, Masks to) {
  copy(stream, from, to);
}
void fill_elements(cudaStream_t stream, float value, Floats to) {
  fill(stream, value, to);
}
void fill_elements(cudaStream_t stream, std::uint8_t value, Masks to) {
  fill(stream, value, to);
}

void widen_elements(cudaStream_t stream, DType type, const std::uint16_t* from, Floats to) {
  flatten(to);
  if (type == DType::bf16)
    for_each_element(stream, to.rows, to.cols, Widen<DType::bf16>{from, to});
  else
    for_each_element(stream, to.rows, to.cols, Widen<DType::f16>{from, to});
}

void narrow_elements(cudaStream_t stream, DType type, ConstFloats from, std::uint16_t* to) {
  flatten(from);
  if (type == DType::bf16)
    for_each_element(stream, from.rows, from.cols, Narrow<DType::bf16>{from, to});
  else
    for_each_element(stream, from.rows, from.cols, Narrow<DType::f16>{from, to});
}

void start_rows(cudaStream_t stream, const float* row, bool add, Floats to) {
  if (row == nullptr) flatten(to);
  for_each_element(stream, to.rows, to.cols, StartRow{row, add, to});
}

}  // namespace fedspallm::backend::cuda
