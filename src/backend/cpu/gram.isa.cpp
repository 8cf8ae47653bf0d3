// SPDX-License-Identifier: Apache-2.0
// H += scale X^T X on the upper triangle. Columns of X are packed once into panels of one vector, which serve
// as the left and as the right operand of every tile.
#include "kernels.hpp"
#include "product_kernel.hpp"

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

constexpr std::size_t vectors = 3;
constexpr std::size_t block_rows =
    width == 4 ? 4 : width / 2;  // with 3 vectors: 12 or 24 sums of 16 or 32 registers

/// packed[panel][word][lane], panel after panel as many words as rows have x width apart; columns beyond the
/// last are 0. Some rows at a time: whole rows would write to addresses that share a few cache sets.
void pack_panels(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                 float* packed) {
  constexpr std::int64_t group = 16;
  const std::int64_t words = words_of(rows);
  for (std::int64_t first = 0; first < words; first += group) {
    const std::int64_t last = words - first < group ? words : first + group;
    for (std::int64_t column = 0; column < columns; column += width) {
      float* to = packed + column * words;
      for (std::int64_t row = first; row < last; ++row)
        store(to + row * width, words_at(x + column, stride, rows, row, columns - column));
    }
  }
}

/// One register block of the tile at (row, column): V panels of columns.
template <std::size_t V>
void one_block(const GramTile& tile, std::int64_t row, std::int64_t column) {
  constexpr auto rows = static_cast<std::int64_t>(block_rows);
  constexpr auto columns = static_cast<std::int64_t>(V) * width;
  const std::int64_t panel = tile.depth * width;
  const float* left = tile.packed + row / width * panel + row % width;
  const float* right = tile.packed + column / width * panel;
  float* h = tile.h + row * tile.stride + column;
  const Floats scale = all(tile.scale);
  if (column >= row + rows && row + rows <= tile.row_last && column + columns <= tile.column_last) {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::size_t v = 0; v < V; ++v)
        __builtin_prefetch(h + i * tile.stride + static_cast<std::int64_t>(v) * width, 1);
    multiply<block_rows, V>(left, 1, width, right, panel, width, tile.depth,
                            [&](std::int64_t i, std::int64_t v, Floats sum) {
                              float* c = h + i * tile.stride + v * width;
                              store(c, load(c) + scale * sum);
                            });
    return;
  }
  // Touches the diagonal (in its first panel only) or the end of the tile: lanes outside are left alone.
  float sums[block_rows][V * width];
  multiply<block_rows, V>(
      left, 1, width, right, panel, width, tile.depth,
      [&](std::int64_t i, std::int64_t v, Floats sum) { store(&sums[i][v * width], scale * sum); });
  for (std::int64_t i = 0; i < rows && row + i < tile.row_last; ++i) {
    float* c = h + i * tile.stride;
    std::int64_t j = column < row + i ? row + i - column : 0;
    const std::int64_t end = columns < tile.column_last - column ? columns : tile.column_last - column;
    for (; j < end && j % width != 0; ++j) c[j] += sums[i][j];
    for (; j + width <= end; j += width) store(c + j, load(c + j) + load(&sums[i][j]));
    for (; j < end; ++j) c[j] += sums[i][j];
  }
}

void gram_tile(const GramTile& tile) {
  constexpr auto rows = static_cast<std::int64_t>(block_rows);
  // Right panels outside: three of them stay in L1 while the left ones pass from L2.
  for (std::int64_t column = tile.column_first; column < tile.column_last;) {
    const std::int64_t left = (tile.column_last - column + width - 1) / width;
    const std::int64_t count = left >= 3 ? 3 : left;
    for (std::int64_t row = tile.row_first; row < tile.row_last && row < column + count * width;
         row += rows) {
      // Panels wholly below the diagonal are skipped.
      const std::int64_t skipped = row < column + width ? 0 : (row - column) / width;
      const std::int64_t first = column + skipped * width;
      switch (count - skipped) {
        case 3:
          one_block<3>(tile, row, first);
          break;
        case 2:
          one_block<2>(tile, row, first);
          break;
        default:
          one_block<1>(tile, row, first);
          break;
      }
    }
    column += count * width;
  }
}

}  // namespace

GramKernels gram_kernels() {
  return {width, pack_panels, gram_tile};
}

}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
