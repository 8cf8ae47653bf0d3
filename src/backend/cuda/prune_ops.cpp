// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/error.hpp"

#include "../checks.hpp"
#include "kernels.hpp"
#include "ops.hpp"

namespace fedspallm::backend::cuda {

namespace {

/// Ranks and histograms count in 32 bits.
constexpr std::int64_t largest_selection = 0xffffffffLL;

}  // namespace

void CudaPrune::saliency(View w, View diag, View score) {
  checks::scores(owner_, w, diag, score);
  saliency_scores(engine_.stream(), device_floats(w), Access::f32(diag), device_floats(score));
}

void CudaPrune::weighted_magnitude(View w, View factor, View score) {
  checks::scores(owner_, w, factor, score);
  magnitude_scores(engine_.stream(), device_floats(w), Access::f32(factor), device_floats(score));
}

void CudaPrune::prefer_dropped(View previous_mask, View score) {
  checks::prefer_dropped(owner_, previous_mask, score);
  cuda::prefer_dropped(engine_.stream(), device_bytes(previous_mask), device_floats(score));
}

void CudaPrune::select_index(const View& score, std::int64_t index, bool published, const View& mask) {
  require(score.size() <= largest_selection, "select on a CUDA device: at most 2^32 - 1 scores at a time");
  const std::int64_t units = select_units(score.size()).count();
  std::byte* memory = engine_.scratch.bytes(SelectionWorkspace::bytes(units));
  cuda::select(engine_.stream(), device_floats(score), index, published,
               SelectionWorkspace::at(memory, units), device_bytes(mask));
}

void CudaPrune::select_smallest(View score, std::int64_t count, View mask) {
  checks::select_smallest(owner_, score, count, mask);
  if (score.empty()) return;
  if (count == 0) return fill_elements(engine_.stream(), std::uint8_t{1}, device_bytes(mask));
  select_index(score, count - 1, /*published=*/false, mask);
}

void CudaPrune::select_smallest_per_row(View score, std::span<const std::int64_t> counts, View mask) {
  checks::select_smallest_per_row(owner_, score, counts, mask);
  if (score.empty()) return;
  require(score.cols() <= largest_selection, "select on a CUDA device: at most 2^32 - 1 scores a row");
  auto* device_counts = engine_.scratch.elements<std::int64_t>(score.rows());
  engine_.upload(counts.data(), score.rows(), device_counts);
  select_in_rows(engine_.stream(), device_floats(score), device_counts, device_bytes(mask));
}

void CudaPrune::select_published(View score, std::int64_t index, View mask) {
  checks::select_published(owner_, score, index, mask);
  select_index(score, index, /*published=*/true, mask);
}

/// Wide column blocks go in pieces: the errors of one piece update the columns after it by a product.
void CudaPrune::sweep_pieces(const View& w, const View& u, const View& mask, const View& previous,
                             const View& error, int keep, int m) {
  const std::int64_t columns = w.cols(), step = sweep_piece(m);
  for (std::int64_t first = 0; first < columns && w.rows() > 0; first += step) {
    const std::int64_t width = std::min(step, columns - first), rest = columns - first - width;
    const auto piece = [&](const View& view) { return view.column_range(first, width); };
    SweepGroups groups;
    groups.keep = keep;
    groups.m = m;
    if (!previous.empty()) groups.previous = device_bytes(piece(previous));
    const View u_rows = u.row_range(first, width);
    cuda::sweep(engine_.stream(), device_floats(piece(u_rows)), groups, device_floats(piece(w)),
                device_bytes(piece(mask)), device_floats(piece(error)));
    if (rest == 0) continue;
    const View later = w.column_range(first + width, rest), factor = u_rows.column_range(first + width, rest);
    engine_.blas.gemm(DType::f32, w.rows(), rest, width, -1.0F, {Access::data(piece(error)), error.stride()},
                      {Access::data(factor), factor.stride()}, 1.0F, Access::f32(later), later.stride());
  }
}

void CudaPrune::obs_block(View w, View u, View mask, View error) {
  checks::obs_block(owner_, w, u, mask, error);
  sweep_pieces(w, u, mask, View(), error, 0, 0);
}

void CudaPrune::obs_block_n_of_m(View w, View u, int keep, int m, View previous_mask, View mask, View error) {
  checks::obs_block_n_of_m(owner_, w, u, keep, m, previous_mask, mask, error);
  require(m <= sweep_columns, "obs_block_n_of_m on a CUDA device: groups of at most 128 columns");
  sweep_pieces(w, u, mask, previous_mask, error, keep, m);
}

void CudaPrune::select_n_of_m(View score, int keep, int m, View mask) {
  checks::select_n_of_m(owner_, score, keep, m, mask);
  keep_n_of_m(engine_.stream(), device_floats(score), keep, m, device_bytes(mask));
}

void CudaPrune::apply_mask(View mask, View w) {
  checks::apply_mask(owner_, mask, w);
  cuda::apply_mask(engine_.stream(), device_bytes(mask), device_floats(w));
}

void CudaPrune::round_to_dtype(DType dtype, View w) {
  checks::round_to_dtype(owner_, w);
  if (dtype != DType::f32) round_elements(engine_.stream(), dtype, device_floats(w));
}

void CudaPrune::start_squares() {
  squares_ = squares_memory_.elements<double>(1);
  check_cuda(cudaMemsetAsync(squares_, 0, sizeof *squares_, engine_.stream()), "cudaMemsetAsync");
}

void CudaPrune::add_squares(View x) {
  checks::add_squares(owner_, x);
  require(squares_ != nullptr, "squares: start_squares() was called");
  if (x.empty()) return;
  auto* partial = engine_.scratch.elements<double>(sum_units(x.size()).count());
  cuda::add_squares(engine_.stream(), device_floats(x), partial, squares_);
}

double CudaPrune::squares() {
  require(squares_ != nullptr, "squares: start_squares() was called");
  return engine_.read(squares_);
}

}  // namespace fedspallm::backend::cuda
