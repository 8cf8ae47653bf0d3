// SPDX-License-Identifier: Apache-2.0
// Products with a right operand that was packed once for all rows. OpenBLAS packs both operands again for
// each unit of rows and visits C once more: a tenth of the time of a forward pass.
#include "kernels.hpp"
#include "product_kernel.hpp"
#include "transpose_kernel.hpp"

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

constexpr std::size_t vectors = 3;
constexpr std::size_t block_rows = width == 4 ? 2 : width / 2;  // 6, 12 or 24 sums of 16, 16 or 32 registers

constexpr std::int64_t piece = 32;  // words of a row whose cache lines stay in L1 while all lanes are read

/// Words [k, k + count) of `lanes` rows of w, one row of the panel each.
inline void pack_piece(const float* w, std::int64_t stride, std::int64_t lanes, std::int64_t depth,
                       std::int64_t k, std::int64_t count, float* panel) {
#if defined(__AVX512BF16__)
  float words[width][piece];
  const std::int64_t first = k * per_word;
  const std::int64_t floats = depth - first < piece * per_word ? depth - first : piece * per_word;
  for (std::int64_t lane = 0; lane < lanes; ++lane) to_words(w + lane * stride + first, floats, words[lane]);
  transpose(words[0], piece, lanes, count, panel + k * width, width);
#else
  static_cast<void>(depth);
  transpose(w + k, stride, lanes, count, panel + k * width, width);
#endif
}

void pack_rows(const float* w, std::int64_t stride, std::int64_t rows, std::int64_t depth, float* packed) {
  const std::int64_t words = words_of(depth);
  for (std::int64_t row = 0; row < rows; row += width) {
    float* panel = packed + row * words;
    const std::int64_t lanes = rows - row < width ? rows - row : width;
    for (std::int64_t k = 0; k < words; k += piece) {
      const std::int64_t count = words - k < piece ? words - k : piece;
      if (lanes < width)
        for (std::int64_t i = 0; i < count; ++i) store(panel + (k + i) * width, Floats{});
      pack_piece(w + row * stride, stride, lanes, depth, k, count, panel);
    }
  }
}

/// A sum over `depth` on its way to C.
inline void finish(const PackedProduct& product, float* c, std::int64_t column, std::int64_t v, Floats sum) {
  const std::int64_t first = column + v * width;
  float* to = c + first;
  const std::int64_t left = product.columns - first;
  const bool whole = left >= width;
  if (product.bias != nullptr)
    sum += whole ? load(product.bias + first) : load_part(product.bias + first, left, 0.0F);
  if (product.mode != ProductMode::assign) {
    const Floats before = whole ? load(to) : load_part(to, left, 0.0F);
    sum = product.mode == ProductMode::add ? before + sum : before - sum;
  }
  if (whole)
    store(to, sum);
  else
    store_part(to, left, sum);
}

/// Rows [row, row + M) of V panels from `column` on.
template <std::size_t M, std::size_t V>
inline void one_block(const PackedProduct& product, std::int64_t row, std::int64_t column) {
  const float* left = product.left + row * product.stride_left;
  const float* right = product.packed + column / width * product.stride_panel;
  float* c = product.result + row * product.stride_result;
  if (column + static_cast<std::int64_t>(V) * width <= product.columns)
    for (std::size_t i = 0; i < M; ++i)
      for (std::size_t v = 0; v < V; ++v)
        __builtin_prefetch(c + static_cast<std::int64_t>(i) * product.stride_result + column +
                               static_cast<std::int64_t>(v) * width,
                           1);
  multiply<M, V>(left, product.stride_left, 1, right, product.stride_panel, width, product.depth,
                 [&](std::int64_t i, std::int64_t v, Floats sum) {
                   finish(product, c + i * product.stride_result, column, v, sum);
                 });
}

template <std::size_t V>
inline void one_strip(const PackedProduct& product, std::int64_t column) {
  constexpr auto rows = static_cast<std::int64_t>(block_rows);
  std::int64_t row = 0;
  for (; row + rows <= product.rows; row += rows) one_block<block_rows, V>(product, row, column);
  for (; row < product.rows; ++row) one_block<1, V>(product, row, column);
}

/// Panels outside: three of them stay in L1 while the rows pass from L2.
void multiply_packed(const PackedProduct& product) {
  for (std::int64_t column = 0; column < product.columns;) {
    const std::int64_t panels = (product.columns - column + width - 1) / width;
    if (panels >= static_cast<std::int64_t>(vectors)) {
      one_strip<vectors>(product, column);
      column += static_cast<std::int64_t>(vectors) * width;
    } else if (panels == 2) {
      one_strip<2>(product, column);
      column += 2 * width;
    } else {
      one_strip<1>(product, column);
      column += width;
    }
  }
}

}  // namespace

LinearKernels linear_kernels() {
  constexpr bool faster_than_blas = width >= 16;  // with narrower vectors OpenBLAS is, by 3 to 8 %
  return {width, faster_than_blas, pack_rows, multiply_packed};
}

#if defined(__AVX512BF16__)
ProductKernels product_kernels() {
  return {per_word, to_words, gram_kernels(), linear_kernels(), attention_kernels()};
}
#endif

}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
