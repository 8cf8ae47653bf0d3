// SPDX-License-Identifier: Apache-2.0
// The SparseGPT sweep over one column block, in one launch. A warp takes a few rows; lane l holds columns l,
// l + 32, ... of them in registers. Column by column the lane that owns it works out the row's error, which a
// shuffle gives to the others; each then updates its own later columns with U's row from shared memory. U's
// strict lower triangle and diagonal are stored as 0 there, so that no lane has to ask which columns are
// later. Rows are independent, so there is nothing to wait for but the warp itself.
#include "block_ops.cuh"
#include "elements.hpp"
#include "kernels.hpp"
#include "launch.cuh"

namespace fedspallm::backend::cuda {

namespace {

/// U in shared memory: row j from column 32 (j / 32) on, its diagonal apart.
template <int tiles>
struct SharedFactor {
  float rows[sweep_factor_floats(tiles)];
  float diagonal[tiles * warp_size];

  /// Where row 32 t + l begins, minus its first column: the index of (row, column) is this plus column.
  [[nodiscard]] __device__ static int row_offset(int t, int l) {
    const int rows_before = 32 * 32 * (t * tiles - t * (t - 1) / 2);  // of all rows of earlier tiles
    return rows_before + l * 32 * (tiles - t) - 32 * t;
  }

  __device__ void load(ConstFloats u) {
    for (int j = static_cast<int>(warp_index()); j < tiles * 32; j += static_cast<int>(block_warps)) {
      const int offset = row_offset(j / 32, j % 32);
      for (int column = j / 32 * 32 + static_cast<int>(lane_index()); column < tiles * 32; column += 32)
        rows[offset + column] = j < u.cols && column < u.cols && column > j ? u.at(j, column) : 0.0F;
      if (lane_index() == 0) diagonal[j] = j < u.cols ? u.at(j, j) : 1.0F;
    }
  }
};

/// The warp's rows in registers.
template <int tiles>
struct Rows {
  float w[sweep_rows_per_warp][tiles];
  float error[sweep_rows_per_warp][tiles];
  unsigned kept[sweep_rows_per_warp];  // bit t: this lane's column of tile t
};

/// Chooses the group of m columns from column j on for row r of the warp. scores: m floats of this warp.
template <int tiles>
__device__ __forceinline__ void choose_group(Rows<tiles>& rows, int r, int j, const float* diagonal,
                                             std::int64_t row, const SweepGroups& groups, float* scores) {
  const int lane = static_cast<int>(lane_index());
#pragma unroll
  for (int t = 0; t < tiles; ++t) {
    const int column = 32 * t + lane;
    if (column < j || column >= j + groups.m) continue;
    const bool before =
        groups.previous.data != nullptr && row < groups.previous.rows && groups.previous.at(row, column) == 0;
    scores[column - j] = before ? -1.0F : saliency(rows.w[r][t], diagonal[column]);
  }
  __syncwarp();
#pragma unroll
  for (int t = 0; t < tiles; ++t) {
    const int column = 32 * t + lane;
    if (column < j || column >= j + groups.m) continue;
    const bool keep = kept_in_group(column - j, groups.keep, groups.m, [&](int i) { return scores[i]; });
    rows.kept[r] = (rows.kept[r] & ~(1U << t)) | (keep ? 1U << t : 0U);
  }
  __syncwarp();
}

/// Column 32 t + l of all of the warp's rows. t is known when compiling: only so do the rows stay in
/// registers.
template <int tiles, int t>
__device__ __forceinline__ void sweep_column(Rows<tiles>& rows, int l, const SharedFactor<tiles>& factor) {
  const int lane = static_cast<int>(lane_index());
  const float* u = factor.rows + SharedFactor<tiles>::row_offset(t, l);
  const float diagonal = factor.diagonal[32 * t + l];
#pragma unroll
  for (int r = 0; r < sweep_rows_per_warp; ++r) {
    const bool kept = ((rows.kept[r] >> t) & 1U) != 0;
    const float own = kept ? 0.0F : rows.w[r][t] / diagonal;
    const float error = __shfl_sync(all_lanes, own, l);
    if (lane == l) {
      rows.error[r][t] = error;
      if (!kept) rows.w[r][t] = 0.0F;
    }
#pragma unroll
    for (int later = t; later < tiles; ++later) rows.w[r][later] -= error * u[32 * later + lane];
  }
}

/// The columns of tiles t, t + 1, ...
template <int tiles, int t = 0>
__device__ __forceinline__ void sweep_tiles_from(Rows<tiles>& rows, int columns, std::int64_t first_row,
                                                 const SharedFactor<tiles>& factor, const SweepGroups& groups,
                                                 float* scores) {
  for (int l = 0; l < static_cast<int>(warp_size) && 32 * t + l < columns; ++l) {
    if (groups.m > 0 && (32 * t + l) % groups.m == 0) {
#pragma unroll
      for (int r = 0; r < sweep_rows_per_warp; ++r)
        choose_group(rows, r, 32 * t + l, factor.diagonal, first_row + r, groups, scores);
    }
    sweep_column<tiles, t>(rows, l, factor);
  }
  if constexpr (t + 1 < tiles)
    sweep_tiles_from<tiles, t + 1>(rows, columns, first_row, factor, groups, scores);
}

template <int tiles>
__global__ void __launch_bounds__(block_threads)
    sweep_kernel(ConstFloats u, SweepGroups groups, Floats w, Masks mask, Floats error) {
  __shared__ SharedFactor<tiles> factor;
  __shared__ float scores[block_warps][sweep_columns];
  factor.load(u);
  __syncthreads();
  const int lane = static_cast<int>(lane_index());
  const auto columns = static_cast<int>(w.cols);
  const std::int64_t first =
      static_cast<std::int64_t>(blockIdx.x) * sweep_rows + warp_index() * sweep_rows_per_warp;
  Rows<tiles> rows;
#pragma unroll
  for (int r = 0; r < sweep_rows_per_warp; ++r) {
    rows.kept[r] = ~0U;
#pragma unroll
    for (int t = 0; t < tiles; ++t) {
      const bool inside = first + r < w.rows && 32 * t + lane < columns;
      rows.w[r][t] = inside ? w.at(first + r, 32 * t + lane) : 0.0F;
      rows.error[r][t] = 0.0F;
      if (inside && groups.m == 0 && mask.at(first + r, 32 * t + lane) == 0) rows.kept[r] &= ~(1U << t);
    }
  }
  sweep_tiles_from<tiles>(rows, columns, first, factor, groups, scores[warp_index()]);
#pragma unroll
  for (int r = 0; r < sweep_rows_per_warp; ++r) {
#pragma unroll
    for (int t = 0; t < tiles; ++t) {
      if (first + r >= w.rows || 32 * t + lane >= columns) continue;
      w.at(first + r, 32 * t + lane) = rows.w[r][t];
      error.at(first + r, 32 * t + lane) = rows.error[r][t];
      if (groups.m > 0) mask.at(first + r, 32 * t + lane) = (rows.kept[r] >> t) & 1U;
    }
  }
}

}  // namespace

void sweep(cudaStream_t stream, ConstFloats u, const SweepGroups& groups, Floats w, Masks mask,
           Floats error) {
  const Geometry geometry = w.cols == 0 ? Geometry{} : sweep_geometry(w.rows);
  switch (sweep_tiles(w.cols)) {
    case 0:
    case 1:
      return launch(stream, geometry, sweep_kernel<1>, u, groups, w, mask, error);
    case 2:
      return launch(stream, geometry, sweep_kernel<2>, u, groups, w, mask, error);
    case 3:
      return launch(stream, geometry, sweep_kernel<3>, u, groups, w, mask, error);
    default:
      return launch(stream, geometry, sweep_kernel<4>, u, groups, w, mask, error);
  }
}

}  // namespace fedspallm::backend::cuda
