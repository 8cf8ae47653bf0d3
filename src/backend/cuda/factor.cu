// SPDX-License-Identifier: Apache-2.0
// What stands around cuSOLVER: reversing, triangles, the pivots' tolerance.
#include "kernels.hpp"
#include "launch.cuh"

namespace fedspallm::backend::cuda {

namespace {

struct ReverseToLower {
  ConstFloats from;
  Floats to;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t last = to.rows - 1;
    to.at(row, column) = column <= row ? from.at(last - row, last - column) : 0.0F;
  }
};

struct ReverseToUpper {
  ConstFloats from;
  Floats to;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t last = to.rows - 1;
    to.at(row, column) = column >= row ? from.at(last - row, last - column) : 0.0F;
  }
};

struct AddUpper {
  ConstFloats from;
  Floats to;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    if (column >= row) to.at(row, column) += from.at(row, column);
  }
};

/// Columns from *info - 1 on hold no factor; that one counts as bad by itself.
struct BadPivot {
  ConstFloats lower, h;
  float tolerance;
  const int* info;
  unsigned long long* first;
  __device__ void operator()(std::int64_t, std::int64_t i) const {
    const std::int64_t factored = *info > 0 ? static_cast<std::int64_t>(*info) - 1 : lower.rows;
    const std::int64_t j = lower.rows - 1 - i;
    const float root = lower.at(i, i);
    const bool bad =
        i == factored || (i < factored && !(root * root > tolerance * h.at(j, j)));  // NaN is bad
    if (bad) atomicMin(first, static_cast<unsigned long long>(i));
  }
};

struct SetNumber {
  unsigned long long value;
  unsigned long long* to;
  __device__ void operator()(std::int64_t, std::int64_t) const { *to = value; }
};

}  // namespace

void reverse_to_lower(cudaStream_t stream, ConstFloats from, Floats to) {
  for_each_element(stream, to.rows, to.cols, ReverseToLower{from, to});
}

void reverse_to_upper(cudaStream_t stream, ConstFloats from, Floats to) {
  for_each_element(stream, to.rows, to.cols, ReverseToUpper{from, to});
}

void first_bad_pivot(cudaStream_t stream, ConstFloats lower, ConstFloats h, float tolerance, const int* info,
                     unsigned long long* first) {
  for_each_element(stream, 1, 1, SetNumber{static_cast<unsigned long long>(lower.rows), first});
  for_each_element(stream, 1, lower.rows, BadPivot{lower, h, tolerance, info, first});
}

void add_upper(cudaStream_t stream, ConstFloats from, Floats to) {
  for_each_element(stream, to.rows, to.cols, AddUpper{from, to});
}

}  // namespace fedspallm::backend::cuda
