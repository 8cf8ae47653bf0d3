// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLAS.
#include "fedspallm/base/error.hpp"

#include "../checks.hpp"
#include "kernels.hpp"
#include "operands.hpp"
#include "ops.hpp"

namespace fedspallm::backend::cuda {

void CudaLinear::linear(View x, View w, View bias, View y, bool add) {
  checks::linear(owner_, x, w, bias, y);
  if (y.empty()) return;
  const cudaStream_t stream = engine_.stream();
  const bool started = !bias.empty() || x.cols() == 0;  // a product of nothing is 0
  if (started) start_rows(stream, device_row(bias), add, device_floats(y));
  if (x.cols() == 0) return;
  const DType type = type_of(owner_->products());
  Layout layout;
  const std::size_t x_part = layout.add<std::uint16_t>(narrowed_elements(type, x.size()));
  const std::size_t w_part = layout.add<std::uint16_t>(narrowed_elements(type, w.size()));
  std::byte* memory = layout.bytes() == 0 ? nullptr : engine_.scratch.bytes(layout.bytes());
  const Operand left = operand_of(stream, type, x, memory + x_part, false);
  const Operand right = operand_of(stream, type, w, memory + w_part, true);
  engine_.blas.gemm(type, y.rows(), y.cols(), x.cols(), 1.0F, left, right, add || started ? 1.0F : 0.0F,
                    Access::f32(y), y.stride());
}

void CudaLinear::subtract_product(View a, View b, View c) {
  checks::subtract_product(owner_, a, b, c);
  if (c.empty() || a.cols() == 0) return;
  static_cast<void>(engine_.stream());
  engine_.blas.gemm(DType::f32, c.rows(), c.cols(), a.cols(), -1.0F, {Access::data(a), a.stride()},
                    {Access::data(b), b.stride()}, 1.0F, Access::f32(c), c.stride());
}

void CudaLinear::gram(View x, float scale, View h) {
  checks::gram(owner_, x, h);
  if (x.empty()) return;
  static_cast<void>(engine_.stream());
  const DType type = type_of(owner_->products());
  if (type != DType::f32) return gram_16(type, x, scale, h);
  engine_.blas.syrk(x.cols(), x.rows(), scale, Access::f32(x), x.stride(), Access::f32(h), h.stride());
}

/// cuBLAS has no symmetric product of 16-bit operands: a product for each pair of column tiles of the upper
/// triangle. Tiles on the diagonal go through a square of their own, whose lower half is thrown away.
void CudaLinear::gram_16(DType type, View x, float scale, View h) {
  const cudaStream_t stream = engine_.stream();
  const std::int64_t columns = x.cols();
  const std::int64_t step = gram_tile(columns);
  const std::int64_t side = std::min(step, columns);
  Layout layout;
  const std::size_t x_part = layout.add<std::uint16_t>(x.size());
  const std::size_t square_part = layout.add<float>(side * side);
  std::byte* memory = engine_.scratch.bytes(layout.bytes());
  const Operand all = operand_of(stream, type, x, memory + x_part, false);
  auto* square = reinterpret_cast<float*>(memory + square_part);
  const auto tile = [&](std::int64_t first, bool transposed) {
    Operand columns_from = operand_at(type, all, 0, first);
    columns_from.transposed = transposed;
    return columns_from;
  };
  for (std::int64_t i = 0; i < columns; i += step) {
    const std::int64_t rows = std::min(step, columns - i);
    engine_.blas.gemm(type, rows, rows, x.rows(), scale, tile(i, true), tile(i, false), 0.0F, square, rows);
    add_upper(stream, {square, rows, rows, rows}, device_floats(h.row_range(i, rows).column_range(i, rows)));
    const std::int64_t rest = columns - i - rows;
    if (rest == 0) continue;
    const View right = h.row_range(i, rows).column_range(i + rows, rest);
    engine_.blas.gemm(type, rows, rest, x.rows(), scale, tile(i, true), tile(i + rows, false), 1.0F,
                      Access::f32(right), right.stride());
  }
}

}  // namespace fedspallm::backend::cuda
