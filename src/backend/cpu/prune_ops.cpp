// SPDX-License-Identifier: Apache-2.0
#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"
#include "selection.hpp"

namespace fedspallm::backend::cpu {

void CpuPrune::saliency(View w, View diag, View score) {
  checks::scores(owner_, w, diag, score);
  const auto weights = floats(w);
  const auto scores = floats(score);
  engine_.for_rows(weights.rows, weights.cols, [&](std::int64_t row, int) {
    engine_.kernels.prune.saliency(weights.row(row), Access::f32(diag), scores.row(row), weights.cols);
  });
}

void CpuPrune::weighted_magnitude(View w, View factor, View score) {
  checks::scores(owner_, w, factor, score);
  const auto weights = floats(w);
  const auto scores = floats(score);
  engine_.for_rows(weights.rows, weights.cols, [&](std::int64_t row, int) {
    engine_.kernels.prune.weighted_magnitude(weights.row(row), Access::f32(factor), scores.row(row),
                                             weights.cols);
  });
}

void CpuPrune::prefer_dropped(View previous_mask, View score) {
  checks::prefer_dropped(owner_, previous_mask, score);
  const auto mask = bytes(previous_mask);
  const auto scores = floats(score);
  engine_.for_spans(scores.rows, scores.cols, mask.contiguous() && scores.contiguous(),
                    [&](std::int64_t row, std::int64_t column, std::int64_t count) {
                      engine_.kernels.prune.prefer_dropped(mask.row(row) + column, scores.row(row) + column,
                                                           count);
                    });
}

void CpuPrune::select_smallest(View score, std::int64_t count, View mask) {
  checks::select_smallest(owner_, score, count, mask);
  const auto scores = floats(score);
  const auto result = bytes(mask);
  if (scores.size() == 0) return;
  if (count == 0) {
    engine_.for_spans(result.rows, result.cols, result.contiguous(),
                      [&](std::int64_t row, std::int64_t column, std::int64_t span) {
                        std::fill_n(result.row(row) + column, span, std::uint8_t{1});
                      });
    return;
  }
  const Selection selection(engine_, scores, count - 1);
  selection.write(result, count - selection.below());
}

void CpuPrune::select_smallest_per_row(View score, std::span<const std::int64_t> counts, View mask) {
  checks::select_smallest_per_row(owner_, score, counts, mask);
  const auto scores = floats(score);
  const auto result = bytes(mask);
  if (scores.size() == 0) return;
  engine_.reserve_per_worker(row_selection_words(scores.cols));
  engine_.for_rows(scores.rows, scores.cols, [&](std::int64_t row, int worker) {
    select_in_row(engine_.kernels.prune, scores.row(row), scores.cols, counts[static_cast<std::size_t>(row)],
                  reinterpret_cast<std::uint32_t*>(engine_.of_worker(worker)), result.row(row));
  });
}

void CpuPrune::select_published(View score, std::int64_t index, View mask) {
  checks::select_published(owner_, score, index, mask);
  const Selection selection(engine_, floats(score), index);
  selection.write(bytes(mask), selection.equal());
}

void CpuPrune::sweep(const View& w, const View& u, const View& mask, const View& previous, const View& error,
                     int keep, int m) {
  const auto weights = floats(w);
  const auto factor = floats(u);
  const auto kept = bytes(mask);
  const auto before = bytes(previous);
  const auto errors = floats(error);
  if (weights.size() == 0) return;
  engine_.reserve_per_worker(sweep_scratch_floats(weights.cols, m));
  const Cut panels{weights.rows, sweep_panel_rows};
  engine_.run(panels.count(), [&](std::int64_t unit, int worker) {
    const Range rows = panels[unit];
    SweepPanel panel{};
    panel.w = weights.row(rows.first);
    panel.error = errors.row(rows.first);
    panel.mask = kept.row(rows.first);
    panel.previous_mask = before.data == nullptr ? nullptr : before.row(rows.first);
    panel.u = factor.data;
    panel.stride_w = weights.stride;
    panel.stride_error = errors.stride;
    panel.stride_mask = kept.stride;
    panel.stride_previous = before.stride;
    panel.stride_u = factor.stride;
    panel.rows = rows.size();
    panel.columns = weights.cols;
    panel.keep = keep;
    panel.m = m;
    engine_.kernels.prune.sweep(panel, engine_.of_worker(worker));
  });
}

void CpuPrune::obs_block(View w, View u, View mask, View error) {
  checks::obs_block(owner_, w, u, mask, error);
  sweep(w, u, mask, View(), error, 0, 0);
}

void CpuPrune::obs_block_n_of_m(View w, View u, int keep, int m, View previous_mask, View mask, View error) {
  checks::obs_block_n_of_m(owner_, w, u, keep, m, previous_mask, mask, error);
  sweep(w, u, mask, previous_mask, error, keep, m);
}

void CpuPrune::select_n_of_m(View score, int keep, int m, View mask) {
  checks::select_n_of_m(owner_, score, keep, m, mask);
  const auto scores = floats(score);
  const auto result = bytes(mask);
  engine_.for_rows(scores.rows, scores.cols, [&](std::int64_t row, int) {
    engine_.kernels.prune.select_n_of_m(scores.row(row), scores.cols / m, keep, m, result.row(row));
  });
}

void CpuPrune::apply_mask(View mask, View w) {
  checks::apply_mask(owner_, mask, w);
  const auto kept = bytes(mask);
  const auto weights = floats(w);
  engine_.for_spans(weights.rows, weights.cols, kept.contiguous() && weights.contiguous(),
                    [&](std::int64_t row, std::int64_t column, std::int64_t count) {
                      engine_.kernels.prune.apply_mask(kept.row(row) + column, weights.row(row) + column,
                                                       count);
                    });
}

void CpuPrune::round_to_dtype(DType dtype, View w) {
  checks::round_to_dtype(owner_, w);
  if (dtype == DType::f32) return;
  const auto weights = floats(w);
  const SparseKernels& kernels = engine_.kernels.sparse;
  engine_.for_spans(weights.rows, weights.cols, weights.contiguous(),
                    [&](std::int64_t row, std::int64_t column, std::int64_t count) {
                      constexpr std::int64_t part = 1024;
                      std::uint16_t narrow[part];
                      for (std::int64_t first = 0; first < count; first += part) {
                        float* values = weights.row(row) + column + first;
                        const std::int64_t size = std::min(part, count - first);
                        (dtype == DType::bf16 ? kernels.narrow_bf16 : kernels.narrow_f16)(values, size,
                                                                                          narrow);
                        (dtype == DType::bf16 ? kernels.widen_bf16 : kernels.widen_f16)(narrow, size, values);
                      }
                    });
}

void CpuPrune::start_squares() {
  squares_ = 0.0;
}

double CpuPrune::squares() {
  return checks::started_squares(squares_);
}

void CpuPrune::add_squares(View x) {
  checks::add_squares(owner_, x);
  const double before = squares();
  const auto values = floats(x);
  if (values.size() == 0) return;
  // One sum per row (or per piece of a contiguous view), joined in order.
  const bool flat = values.contiguous();
  const std::int64_t rows = flat ? 1 : values.rows;
  const std::int64_t cols = flat ? values.size() : values.cols;
  const Cut pieces{cols, 8192};
  auto* sums = engine_.shared.elements<double>(rows * pieces.count());
  engine_.run(rows * pieces.count(), [&](std::int64_t unit, int) {
    const Range range = pieces[unit % pieces.count()];
    sums[unit] =
        engine_.kernels.prune.sum_of_squares(values.row(unit / pieces.count()) + range.first, range.size());
  });
  double total = 0.0;
  for (std::int64_t unit = 0; unit < rows * pieces.count(); ++unit) total += sums[unit];
  squares_ = before + total;
}

}  // namespace fedspallm::backend::cpu
