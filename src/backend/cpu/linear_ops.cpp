// SPDX-License-Identifier: Apache-2.0
// Matrix products as units of OpenBLAS calls. Panel sizes: docs/measurements/backend.md.
#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"

namespace fedspallm::backend::cpu {

namespace {

/// Rows x columns of the result per unit. Large enough for sgemm's own blocking, small enough for many units.
struct Panels {
  Cut rows, columns;
  [[nodiscard]] std::int64_t units() const { return rows.count() * columns.count(); }
  [[nodiscard]] Range row_range(std::int64_t unit) const { return rows[unit / columns.count()]; }
  [[nodiscard]] Range column_range(std::int64_t unit) const { return columns[unit % columns.count()]; }
};

Panels panels_of(std::int64_t rows, std::int64_t columns) {
  const std::int64_t tall = rows >= 4096 ? 512 : 256;
  return {even_cut(rows, tall, 16), even_cut(columns, 768, 16)};
}

}  // namespace

void CpuLinear::linear(View x, View w, View bias, View y, bool add) {
  checks::linear(owner_, x, w, bias, y);
  const auto input = floats(x);
  const auto weight = floats(w);
  const auto output = floats(y);
  if (output.size() == 0) return;
  const float* offset = bias.empty() ? nullptr : Access::f32(bias);
  const Panels panels = panels_of(output.rows, output.cols);
  engine_.run(panels.units(), [&](std::int64_t unit, int) {
    const Range rows = panels.row_range(unit);
    const Range columns = panels.column_range(unit);
    if (offset != nullptr ||
        input.cols == 0) {  // sgemm adds to what is there: no pass of its own for the bias
      for (std::int64_t row = rows.first; row < rows.last; ++row) {
        float* out = output.row(row) + columns.first;
        if (!add) std::fill(out, out + columns.size(), 0.0F);
        if (offset != nullptr) engine_.kernels.model.add(offset + columns.first, out, columns.size());
      }
    }
    if (input.cols == 0) return;
    const float beta = add || offset != nullptr ? 1.0F : 0.0F;
    engine_.blas.gemm(false, true, rows.size(), columns.size(), input.cols, 1.0F, input.row(rows.first),
                      input.stride, weight.row(columns.first), weight.stride, beta,
                      output.row(rows.first) + columns.first, output.stride);
  });
}

void CpuLinear::subtract_product(View a, View b, View c) {
  checks::subtract_product(owner_, a, b, c);
  const auto left = floats(a);
  const auto right = floats(b);
  const auto result = floats(c);
  if (result.size() == 0 || left.cols == 0) return;
  const Panels panels = panels_of(result.rows, result.cols);
  engine_.run(panels.units(), [&](std::int64_t unit, int) {
    const Range rows = panels.row_range(unit);
    const Range columns = panels.column_range(unit);
    engine_.blas.gemm(false, false, rows.size(), columns.size(), left.cols, -1.0F, left.row(rows.first),
                      left.stride, right.data + columns.first, right.stride, 1.0F,
                      result.row(rows.first) + columns.first, result.stride);
  });
}

void CpuLinear::gram(View x, float scale, View h) {
  checks::gram(owner_, x, h);
  const auto samples = floats(x);
  const auto hessian = floats(h);
  if (samples.size() == 0) return;
  const Cut tiles = even_cut(hessian.cols, 192, 16);
  const Cut depth{samples.rows, 512};  // packed panels of x stay in L2
  const std::int64_t count = tiles.count();
  // Off-diagonal tiles first: they cost twice a diagonal one, and the small ones fill the end.
  std::vector<std::pair<std::int64_t, std::int64_t>> units;
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t j = i + 1; j < count; ++j) units.emplace_back(i, j);
  for (std::int64_t i = 0; i < count; ++i) units.emplace_back(i, i);
  engine_.run(static_cast<std::int64_t>(units.size()), [&](std::int64_t unit, int) {
    const auto [i, j] = units[static_cast<std::size_t>(unit)];
    const Range rows = tiles[i];
    const Range columns = tiles[j];
    float* tile = hessian.row(rows.first) + columns.first;
    for (std::int64_t panel = 0; panel < depth.count(); ++panel) {
      const float* first = samples.row(depth[panel].first);
      if (i == j) {
        engine_.blas.syrk(rows.size(), depth[panel].size(), scale, first + rows.first, samples.stride, tile,
                          hessian.stride);
      } else {
        engine_.blas.gemm(true, false, rows.size(), columns.size(), depth[panel].size(), scale,
                          first + rows.first, samples.stride, first + columns.first, samples.stride, 1.0F,
                          tile, hessian.stride);
      }
    }
  });
}

}  // namespace fedspallm::backend::cpu
