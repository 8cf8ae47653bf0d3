// SPDX-License-Identifier: Apache-2.0
// Purpose: launching with a checked geometry, and the one shape of elementwise kernels.
#pragma once

#include <cuda_runtime.h>

#include "cuda_check.hpp"
#include "geometry.hpp"
#include "strided.hpp"
#include <cstdint>
#include <utility>

namespace fedspallm::backend::cuda {

/// Launches nothing for an empty geometry. Arguments are converted to the kernel's own types.
template <class... Expected, class... Actual>
void launch(cudaStream_t stream, const Geometry& geometry, void (*kernel)(Expected...),
            Actual&&... arguments) {
  if (geometry.empty()) return;
  if (!geometry.valid()) check_cuda(cudaErrorInvalidConfiguration, "a kernel for a tensor of this size");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(geometry.grid_x), static_cast<unsigned>(geometry.grid_y));
  config.blockDim = dim3(geometry.threads);
  config.stream = stream;
  check_cuda(cudaLaunchKernelEx(&config, kernel, std::forward<Actual>(arguments)...), "kernel launch");
}

/// body(row, column) for each element of a rows x cols rectangle.
template <class Body>
__global__ void __launch_bounds__(block_threads)
    elementwise_kernel(std::int64_t rows, std::int64_t cols, Body body) {
  const std::int64_t first =
      static_cast<std::int64_t>(blockIdx.x) * blockDim.x * elements_per_thread + threadIdx.x;
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
#pragma unroll
    for (int i = 0; i < elements_per_thread; ++i) {
      const std::int64_t column = first + static_cast<std::int64_t>(i) * blockDim.x;
      if (column < cols) body(row, column);
    }
  }
}

template <class Body>
void for_each_element(cudaStream_t stream, std::int64_t rows, std::int64_t cols, Body body) {
  launch(stream, elementwise_geometry(rows, cols), elementwise_kernel<Body>, rows, cols, body);
}

/// The same elements as one long row where all rectangles are contiguous: fewer, fuller blocks.
template <class... T>
void flatten(Strided<T>&... rectangles) {
  if (!(rectangles.contiguous() && ...)) return;
  ((rectangles.cols = rectangles.size(), rectangles.rows = 1, rectangles.stride = rectangles.cols), ...);
}

}  // namespace fedspallm::backend::cuda
