// SPDX-License-Identifier: Apache-2.0
// Matrix products as units of OpenBLAS calls. Panel sizes: docs/measurements/backend.md.
#include "fedspallm/base/rounding.hpp"

#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"

namespace fedspallm::backend::cpu {

namespace {

/// A product by OpenBLAS is cut into units of rows x columns of the result.
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

constexpr std::int64_t packed_rows = 128;        // of A per unit: they stay in L2 while panels of B pass
constexpr std::int64_t packed_depth = 256;       // words: three panels of so many stay in L1
constexpr std::int64_t packed_floats = 1 << 20;  // of B packed at a time: 4 MiB
constexpr std::int64_t packed_strip = 48;        // three panels of 16 or six of 8 lanes

}  // namespace

/// Some rows of x as words: its own floats, or made in the worker's memory.
Matrix<const float> CpuLinear::words_of_rows(const ProductKernels& kernels, Matrix<float> x, Range range,
                                             int worker) {
  if (kernels.to_words == nullptr) return {x.row(range.first), range.size(), x.cols, x.stride};
  const std::int64_t words = kernels.words(x.cols);
  float* memory = engine_.of_worker(worker);
  for (std::int64_t row = 0; row < range.size(); ++row)
    kernels.to_words(x.row(range.first + row), x.cols, memory + row * words);
  return {memory, range.size(), words, words};
}

/// y = x w^T (+ bias) (+ y): w is packed once for all rows, some of its rows at a time.
void CpuLinear::packed_linear(Matrix<float> x, Matrix<float> w, const float* bias, Matrix<float> y,
                              bool add) {
  const ProductKernels products = engine_.product_kernels(owner_->products());
  const LinearKernels& kernels = products.linear;
  const std::int64_t words = products.words(x.cols);
  const Cut depths = even_cut(words, packed_depth, 1);
  const Cut rows = even_cut(y.rows, packed_rows, 8);
  const Cut chunks = even_cut(y.cols, std::max(packed_strip, packed_floats / words), packed_strip);
  if (products.to_words != nullptr) engine_.reserve_per_worker(rows.piece * words);
  for (std::int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    const std::int64_t first = chunks[chunk].first;
    const Cut strips{chunks[chunk].size(), packed_strip};
    const std::int64_t strip_floats = packed_strip * words;
    float* packed = engine_.shared.elements<float>(strips.count() * strip_floats);
    engine_.run(strips.count(), [&](std::int64_t unit, int) {
      const Range strip = strips[unit];
      kernels.pack_rows(w.row(first + strip.first), w.stride, strip.size(), x.cols,
                        packed + unit * strip_floats);
    });
    engine_.run(rows.count(), [&](std::int64_t unit, int worker) {
      const Range range = rows[unit];
      const Matrix<const float> left = words_of_rows(products, x, range, worker);
      for (std::int64_t s = 0; s < strips.count(); ++s) {
        const std::int64_t column = first + strips[s].first;
        for (std::int64_t d = 0; d < depths.count(); ++d) {
          const Range depth = depths[d];
          kernels.multiply_packed(
              {left.data + depth.first, left.stride, range.size(), depth.size(),
               packed + s * strip_floats + depth.first * kernels.panel_width, words * kernels.panel_width,
               strips[s].size(), d == 0 && bias != nullptr ? bias + column : nullptr,
               d > 0 || add ? ProductMode::add : ProductMode::assign, y.row(range.first) + column, y.stride});
        }
      }
    });
  }
}

void CpuLinear::linear(View x, View w, View bias, View y, bool add) {
  checks::linear(owner_, x, w, bias, y);
  const auto input = floats(x);
  const auto weight = floats(w);
  const auto output = floats(y);
  if (output.size() == 0) return;
  const float* offset = bias.empty() ? nullptr : Access::f32(bias);
  // For any number of rows, so that a row's bits do not depend on the batch that it is in.
  if (engine_.product_kernels(owner_->products()).linear.faster_than_blas && input.cols > 0)
    return packed_linear(input, weight, offset, output, add);
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

/// c -= a b with b packed once.
void CpuLinear::packed_subtract(Matrix<float> a, Matrix<float> b, Matrix<float> c) {
  const Cut strips = even_cut(b.cols, packed_strip, packed_strip);
  float* packed = engine_.shared.elements<float>(strips.count() * packed_strip * b.rows);
  engine_.run(strips.count(), [&](std::int64_t unit, int) {
    const Range strip = strips[unit];
    engine_.kernels.gram.pack_panels(b.data + strip.first, b.stride, b.rows, strip.size(),
                                     packed + strip.first * b.rows);
  });
  const Cut rows = even_cut(c.rows, packed_rows / 2, 8);
  engine_.run(rows.count(), [&](std::int64_t unit, int) {
    const Range range = rows[unit];
    engine_.kernels.linear.multiply_packed({a.row(range.first), a.stride, range.size(), a.cols, packed,
                                            b.rows * engine_.kernels.linear.panel_width, b.cols, nullptr,
                                            ProductMode::subtract, c.row(range.first), c.stride});
  });
}

void CpuLinear::subtract_product(View a, View b, View c) {
  checks::subtract_product(owner_, a, b, c);
  const auto left = floats(a);
  const auto right = floats(b);
  const auto result = floats(c);
  if (result.size() == 0 || left.cols == 0) return;
  if (engine_.kernels.linear.faster_than_blas) return packed_subtract(left, right, result);
  const Panels panels = panels_of(result.rows, result.cols);
  engine_.run(panels.units(), [&](std::int64_t unit, int) {
    const Range rows = panels.row_range(unit);
    const Range columns = panels.column_range(unit);
    engine_.blas.gemm(false, false, rows.size(), columns.size(), left.cols, -1.0F, left.row(rows.first),
                      left.stride, right.data + columns.first, right.stride, 1.0F,
                      result.row(rows.first) + columns.first, result.stride);
  });
}

namespace {

/// Words of X that are multiplied in registers before H is touched, and how many such panels are packed at a
/// time.
constexpr std::int64_t gram_depth = 256;
constexpr std::int64_t gram_panels = 2;
/// Columns per unit of packing and of H.
constexpr std::int64_t gram_tile = 144;

}  // namespace

void CpuLinear::gram(View x, float scale, View h) {
  checks::gram(owner_, x, h);
  const auto samples = floats(x);
  const auto hessian = floats(h);
  if (samples.size() == 0) return;
  const ProductKernels products = engine_.product_kernels(owner_->products());
  const GramKernels& kernels = products.gram;
  const std::int64_t depth_rows = gram_depth * products.per_word;
  const Cut tiles = even_cut(hessian.cols, gram_tile, 16);
  const std::int64_t padded = round_up(hessian.cols, kernels.panel_width);
  // Tiles off the diagonal first: they cost twice a diagonal one, and the small ones fill the end.
  std::vector<std::pair<std::int64_t, std::int64_t>> units;
  for (std::int64_t i = 0; i < tiles.count(); ++i)
    for (std::int64_t j = i + 1; j < tiles.count(); ++j) units.emplace_back(i, j);
  for (std::int64_t i = 0; i < tiles.count(); ++i) units.emplace_back(i, i);
  float* packed = engine_.shared.elements<float>(
      products.words(std::min(samples.rows, depth_rows * gram_panels)) * padded);
  for (std::int64_t slab = 0; slab < samples.rows; slab += depth_rows * gram_panels) {
    const Cut depths{std::min(samples.rows - slab, depth_rows * gram_panels), depth_rows};
    engine_.run(depths.count() * tiles.count(), [&](std::int64_t unit, int) {
      const Range rows = depths[unit / tiles.count()];
      const Range columns = tiles[unit % tiles.count()];
      kernels.pack_panels(
          samples.row(slab + rows.first) + columns.first, samples.stride, rows.size(), columns.size(),
          packed + products.words(rows.first) * padded + columns.first * products.words(rows.size()));
    });
    engine_.run(static_cast<std::int64_t>(units.size()), [&](std::int64_t unit, int) {
      const Range rows = tiles[units[static_cast<std::size_t>(unit)].first];
      const Range columns = tiles[units[static_cast<std::size_t>(unit)].second];
      for (std::int64_t depth = 0; depth < depths.count(); ++depth)
        kernels.gram_tile({packed + products.words(depths[depth].first) * padded,
                           products.words(depths[depth].size()), rows.first, rows.last, columns.first,
                           columns.last, scale, hessian.data, hessian.stride});
    });
  }
}

}  // namespace fedspallm::backend::cpu
