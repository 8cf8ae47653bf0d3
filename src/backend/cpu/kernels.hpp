// SPDX-License-Identifier: Apache-2.0
// Purpose: what the kernel files (*.isa.cpp, compiled once per instruction set) offer, as tables of functions
// on raw pointers; select_kernels() gives the tables of one set. Non-goals: threads, shapes, checks: those
// are the ops'. Kernel files include this, so it must not pull in standard headers with inline code.
#pragma once

#include <cstdint>

namespace fedspallm::backend::cpu {

/// Rows and spans of the forward pass.
struct ModelKernels {
  void (*rms_norm)(const float* x, const float* weight, float epsilon, std::int64_t n, float* y);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float epsilon, std::int64_t n,
                     float* y);
  /// One row of `heads` heads; cosine and sine have `half` elements.
  void (*rope)(float* x, const float* cosine, const float* sine, std::int64_t heads, std::int64_t half);
  void (*silu_multiply)(float* gate, const float* up, std::int64_t n);
  void (*relu)(float* x, std::int64_t n);
  void (*gelu)(float* x, std::int64_t n);
  void (*add)(const float* x, float* y, std::int64_t n);
  /// @pre n >= 1
  double (*log_sum_exp)(const float* x, std::int64_t n);
  /// Index of the first NaN or infinity, or -1.
  std::int64_t (*first_non_finite)(const float* x, std::int64_t n);
};

/// So many rows go through the sweep together.
constexpr std::int64_t sweep_panel_rows = 64;

/// One panel of the SparseGPT sweep: at most sweep_panel_rows rows of a column block.
struct SweepPanel {
  float* w;
  float* error;
  std::uint8_t* mask;                 // read, or written when m > 0
  const std::uint8_t* previous_mask;  // N:M only; may be null
  const float* u;
  std::int64_t stride_w, stride_error, stride_mask, stride_previous, stride_u;
  std::int64_t rows, columns;
  int keep, m;  // m == 0: the mask is given
};

/// Columns of a diagonal tile that are factored together.
constexpr std::int64_t kFactorStep = 16;
[[nodiscard]] constexpr std::int64_t factor_scratch_floats(std::int64_t n) {
  const std::int64_t columns = (n + kFactorStep - 1) / kFactorStep * kFactorStep;
  return (2 * columns + kFactorStep) * (columns + kFactorStep);
}

/// A key's uppermost digit, by which scores are told apart first.
constexpr int kSelectionShift = 20;
constexpr std::int64_t kSelectionBins = std::int64_t{1} << (32 - kSelectionShift);

struct PruneKernels {
  void (*saliency)(const float* w, const float* diagonal, float* score, std::int64_t n);
  void (*weighted_magnitude)(const float* w, const float* factor, float* score, std::int64_t n);
  void (*prefer_dropped)(const std::uint8_t* mask, float* score, std::int64_t n);
  void (*apply_mask)(const std::uint8_t* mask, float* w, std::int64_t n);
  double (*sum_of_squares)(const float* x, std::int64_t n);
  /// Counts scores by the uppermost digit of their keys, in two tables of kSelectionBins each, whose sum is
  /// meant: neighbours often share a digit, and one counter would wait for itself. key() orders floats as
  /// unsigned numbers, -0 equal to 0.
  void (*histogram)(const float* scores, std::int64_t n, std::uint32_t* counts);
  /// The keys of the scores whose uppermost digit is `digit`, in order. @return their number
  std::int64_t (*collect_keys)(const float* scores, std::int64_t n, std::uint32_t digit, std::uint32_t* keys);
  /// mask = key(score) > threshold, and of those equal to it the first `equal_to_drop` are 0, the rest 1.
  /// @return how many equal ones were dropped
  std::int64_t (*threshold_mask)(const float* scores, std::int64_t n, std::uint32_t threshold,
                                 std::int64_t equal_to_drop, std::uint8_t* mask);
  void (*select_n_of_m)(const float* scores, std::int64_t groups, int keep, int m, std::uint8_t* mask);
  /// a (n x n, symmetric, only the upper triangle is read) becomes R^-1 with a = R R^T, R upper; zeros below
  /// the diagonal. scratch: factor_scratch_floats(n) floats. @return -1, or the column whose pivot was not
  /// above tolerance * diagonal[column]; then a is as it was
  std::int64_t (*invert_factor_tile)(float* a, std::int64_t stride, std::int64_t n, const float* diagonal,
                                     float tolerance, float* scratch);
  /// scratch: sweep_scratch_floats(columns, m) floats, 64-byte aligned.
  void (*sweep)(const SweepPanel& panel, float* scratch);
};

struct SparseKernels {
  /// words[i] gets 64 mask bytes each, the last one zero-padded. @return number of ones
  std::int64_t (*mask_to_bits)(const std::uint8_t* mask, std::int64_t n, std::uint64_t* words);
  void (*bits_to_mask)(const std::uint64_t* words, std::int64_t n, std::uint8_t* mask);
  /// The elements at the set bits, one after another. @return their number
  std::int64_t (*compress_f32)(const float* source, const std::uint64_t* words, std::int64_t n,
                               void* destination);
  std::int64_t (*compress_16)(const std::uint16_t* source, const std::uint64_t* words, std::int64_t n,
                              void* destination);
  /// destination[i] = the next value at set bits, 0 elsewhere. `values` may have any alignment. @return
  /// values used
  std::int64_t (*expand_f32)(const void* values, const std::uint64_t* words, std::int64_t n,
                             float* destination);
  std::int64_t (*expand_16)(const void* values, const std::uint64_t* words, std::int64_t n,
                            std::uint16_t* destination);
  std::int64_t (*count_bits)(const std::uint64_t* words, std::int64_t word_count);
  /// Conversions as in base/dtype.hpp; 16-bit pointers may have any alignment.
  void (*narrow_bf16)(const float* source, std::int64_t n, void* destination);
  void (*widen_bf16)(const void* source, std::int64_t n, float* destination);
  void (*narrow_f16)(const float* source, std::int64_t n, void* destination);
  void (*widen_f16)(const void* source, std::int64_t n, float* destination);
};

/// Columns that the sweep takes together: a multiple of m for N:M.
[[nodiscard]] constexpr std::int64_t sweep_sub_block(int m) {
  return m <= 0 ? 16 : (m >= 16 ? m : 16 / m * m);
}
[[nodiscard]] constexpr std::int64_t sweep_scratch_floats(std::int64_t columns, int m) {
  return (columns + 3 * sweep_sub_block(m)) * sweep_panel_rows;
}

/// One tile of H += scale X^T X: rows and columns [first, last), first a multiple of the panel width.
struct GramTile {
  const float* packed;  // all columns of X, `depth` words of each
  std::int64_t depth;
  std::int64_t row_first, row_last, column_first, column_last;
  float scale;
  float* h;
  std::int64_t stride;
};

struct GramKernels {
  std::int64_t panel_width;
  /// packed[panel][word][lane] of rows x columns; ceil(columns / panel_width) * words * panel_width of them.
  void (*pack_panels)(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                      float* packed);
  void (*gram_tile)(const GramTile& tile);
};

enum class ProductMode { assign, add, subtract };

/// C = A B, C += A B or C -= A B for some rows of A and a packed B; `bias` (may be null) is added to A B.
struct PackedProduct {
  const float* left;  // words
  std::int64_t stride_left, rows, depth;
  const float* packed;  // B in panels of panel_width columns: [panel][depth][lane], stride_panel apart
  std::int64_t stride_panel, columns;
  const float* bias;
  ProductMode mode;
  float* result;
  std::int64_t stride_result;
};

/// B may also come from GramKernels::pack_panels.
/// Operands come as words of 32 bits along the depth: a float, or (ProductKernels) two bf16 numbers that are
/// neighbours in depth. Depths and sizes of packed operands count words, those of what is packed count
/// floats.
struct LinearKernels {
  std::int64_t panel_width;
  bool faster_than_blas;  // in products that are large enough for a library
  /// The rows of w (rows x depth floats) become the columns of B: ceil(rows / panel_width) panels, one after
  /// the other, of words(depth) * panel_width words; lanes beyond the last row are 0.
  void (*pack_rows)(const float* w, std::int64_t stride, std::int64_t rows, std::int64_t depth,
                    float* packed);
  void (*multiply_packed)(const PackedProduct& product);
};

/// Keys and values of one sequence and kv head, packed: words along the dimension, and along the keys.
struct AttentionHead {
  const float* keys;    // by LinearKernels::pack_rows: [panel of keys][word][lane]
  const float* values;  // [word][padded dimension], zeros beyond head_dim
  std::int64_t length, head_dim;
  float scale;
  std::int64_t window;  // 0: full
};

/// Query rows [first, last) of one head. q and out point to position 0's row of the head.
struct AttentionRows {
  const float* q;
  float* out;
  std::int64_t stride_q, stride_out, first, last;
};

struct AttentionKernels {
  /// Room for the packed keys, and for the values.
  std::int64_t (*packed_floats)(std::int64_t length, std::int64_t head_dim);
  /// Floats of scratch that rows() needs.
  std::int64_t (*scratch_floats)(std::int64_t length, std::int64_t head_dim);
  void (*pack_values)(const float* v, std::int64_t stride, std::int64_t length, std::int64_t head_dim,
                      float* packed);
  void (*rows)(const AttentionHead& head, const AttentionRows& rows, float* scratch);
};

/// What multiplies activations (Products). `per_word` floats of an operand become one word.
struct ProductKernels {
  std::int64_t per_word;
  /// n floats as ceil(n / per_word) words, the last one filled up with 0. Null where a word is a float.
  void (*to_words)(const float* x, std::int64_t n, float* words);
  GramKernels gram;
  LinearKernels linear;
  AttentionKernels attention;
  [[nodiscard]] std::int64_t words(std::int64_t n) const { return (n + per_word - 1) / per_word; }
};

#define FEDSPALLM_DECLARE_KERNELS(isa)                \
  namespace isa {                                     \
  [[nodiscard]] ModelKernels model_kernels();         \
  [[nodiscard]] AttentionKernels attention_kernels(); \
  [[nodiscard]] GramKernels gram_kernels();           \
  [[nodiscard]] LinearKernels linear_kernels();       \
  [[nodiscard]] PruneKernels prune_kernels();         \
  [[nodiscard]] SparseKernels sparse_kernels();       \
  }
FEDSPALLM_DECLARE_KERNELS(baseline)
#if defined(__x86_64__)
FEDSPALLM_DECLARE_KERNELS(avx2)
FEDSPALLM_DECLARE_KERNELS(avx512)
#endif
#undef FEDSPALLM_DECLARE_KERNELS
#if defined(__x86_64__)
namespace avx512bf16 {  // AVX-512 with AVX512-BF16: products of pairs only
[[nodiscard]] AttentionKernels attention_kernels();
[[nodiscard]] GramKernels gram_kernels();
[[nodiscard]] LinearKernels linear_kernels();
[[nodiscard]] ProductKernels product_kernels();
}  // namespace avx512bf16
#endif

struct Kernels {
  ModelKernels model;
  AttentionKernels attention;
  GramKernels gram;
  LinearKernels linear;
  PruneKernels prune;
  SparseKernels sparse;
};

}  // namespace fedspallm::backend::cpu
