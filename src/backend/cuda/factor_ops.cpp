// SPDX-License-Identifier: Apache-2.0
// H = R R^T (R upper) and U = R^-1 by cuSOLVER: with rows and columns reversed that is an ordinary Cholesky
// factorization L L^T and the inverse of L, and reversing L^-1 gives U.
#include "../checks.hpp"
#include "kernels.hpp"
#include "ops.hpp"

namespace fedspallm::backend::cuda {

std::optional<std::int64_t> CudaLinear::inverse_upper_factor(View h) {
  checks::inverse_upper_factor(owner_, h);
  if (h.empty()) return std::nullopt;
  const cudaStream_t stream = engine_.stream();
  const std::int64_t n = h.rows();
  Layout layout;
  const std::size_t matrix_part = layout.add<float>(n * n);
  const std::size_t info_part = layout.add<int>(1);
  const std::size_t first_part = layout.add<unsigned long long>(1);
  std::byte* memory = engine_.scratch.bytes(layout.bytes());
  auto* matrix = reinterpret_cast<float*>(memory + matrix_part);
  auto* info = reinterpret_cast<int*>(memory + info_part);
  auto* first = reinterpret_cast<unsigned long long*>(memory + first_part);
  const Floats lower{matrix, n, n, n};
  const Floats whole = device_floats(h);

  reverse_to_lower(stream, whole, lower);
  engine_.blas.cholesky_lower(n, matrix, info);
  first_bad_pivot(stream, lower, whole, checks::pivot_tolerance, info, first);
  const auto bad = static_cast<std::int64_t>(engine_.read(first));  // steers: the caller raises the damping
  if (bad < n) return n - 1 - bad;
  engine_.blas.invert_lower(n, matrix, info);
  reverse_to_upper(stream, lower, whole);
  return std::nullopt;
}

}  // namespace fedspallm::backend::cuda
