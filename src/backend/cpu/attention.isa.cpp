// SPDX-License-Identifier: Apache-2.0
// Causal attention of one head, some query rows at a time: scores of these rows with the keys that they see,
// softmax, product with the values. Scores never leave the cache; what lies beyond the diagonal is computed
// only to the end of a vector. Both products take their operands as words (operand_words.hpp).
#include "kernels.hpp"
#include "product_kernel.hpp"
#include "softmax_kernel.hpp"

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

constexpr std::size_t block_rows = width == 4 ? 4 : width / 2;
constexpr std::int64_t group_rows = 2 * static_cast<std::int64_t>(block_rows);

inline std::int64_t padded(std::int64_t count) {
  return (count + width - 1) / width * width;
}

std::int64_t packed_floats(std::int64_t length, std::int64_t head_dim) {
  return padded(length) * padded(head_dim) / per_word;
}

/// Scores, and queries where these are not floats.
std::int64_t scratch_floats(std::int64_t length, std::int64_t head_dim) {
  return group_rows * (padded(length) + (per_word == 1 ? 0 : words_of(head_dim)));
}

void pack_values(const float* v, std::int64_t stride, std::int64_t length, std::int64_t head_dim,
                 float* packed) {
  for (std::int64_t word = 0; word < words_of(padded(length)); ++word)
    for (std::int64_t d = 0; d < head_dim; d += width, packed += width)
      store(packed, word < words_of(length) ? words_at(v + d, stride, length, word, head_dim - d) : Floats{});
}

/// scores[i][key] = q_i k_key for M rows and V panels of keys.
template <std::size_t M, std::size_t V>
inline void score_block(const AttentionHead& head, const float* q, std::int64_t stride_q, std::int64_t key,
                        float* scores, std::int64_t stride) {
  const std::int64_t depth = words_of(head.head_dim);
  multiply<M, V>(
      q, stride_q, 1, head.keys + key * depth, depth * width, width, depth,
      [&](std::int64_t i, std::int64_t v, Floats sum) { store(scores + i * stride + key + v * width, sum); });
}

/// Scores of M rows with the keys [first_key, end_key), both multiples of the width.
template <std::size_t M>
inline void score_rows(const AttentionHead& head, const float* q, std::int64_t stride_q,
                       std::int64_t first_key, std::int64_t end_key, float* scores, std::int64_t stride) {
  std::int64_t key = first_key;
  for (; key + 3 * width <= end_key; key += 3 * width)
    score_block<M, 3>(head, q, stride_q, key, scores, stride);
  if (key + 2 * width <= end_key) {
    score_block<M, 2>(head, q, stride_q, key, scores, stride);
    key += 2 * width;
  }
  if (key < end_key) score_block<M, 1>(head, q, stride_q, key, scores, stride);
}

template <std::size_t M, std::size_t V>
inline void value_block(const AttentionHead& head, const float* weights, std::int64_t stride,
                        std::int64_t first_key, std::int64_t end_key, const float* reciprocals,
                        std::int64_t dimension, float* out, std::int64_t stride_out) {
  const std::int64_t row = padded(head.head_dim);
  multiply<M, V>(weights + first_key, stride, 1, head.values + words_of(first_key) * row + dimension, width,
                 row, words_of(end_key - first_key), [&](std::int64_t i, std::int64_t v, Floats sum) {
                   const std::int64_t d = dimension + v * width;
                   const Floats result = sum * all(reciprocals[i]);
                   if (d + width <= head.head_dim) {
                     store(out + i * stride_out + d, result);
                   } else {
                     store_part(out + i * stride_out + d, head.head_dim - d, result);
                   }
                 });
}

/// out = weights x values x reciprocals for M rows. Four panels go as two and two, which keeps the registers
/// busy.
template <std::size_t M>
inline void value_rows(const AttentionHead& head, const float* weights, std::int64_t stride,
                       std::int64_t first_key, std::int64_t end_key, const float* reciprocals, float* out,
                       std::int64_t stride_out) {
  std::int64_t panels = padded(head.head_dim) / width;
  for (std::int64_t d = 0; panels > 0;) {
    const std::int64_t now = panels >= 3 && panels != 4 ? 3 : (panels >= 2 ? 2 : 1);
    if (now == 3)
      value_block<M, 3>(head, weights, stride, first_key, end_key, reciprocals, d, out, stride_out);
    if (now == 2)
      value_block<M, 2>(head, weights, stride, first_key, end_key, reciprocals, d, out, stride_out);
    if (now == 1)
      value_block<M, 1>(head, weights, stride, first_key, end_key, reciprocals, d, out, stride_out);
    d += now * width;
    panels -= now;
  }
}

/// The lanes [from, to) of a vector; -infinity elsewhere.
inline Floats only_lanes(Floats value, std::int64_t from, std::int64_t to) {
  Ints lane;
  for (int i = 0; i < width; ++i) lane[i] = i;
  const Ints inside = (lane >= static_cast<std::int32_t>(from)) & (lane < static_cast<std::int32_t>(to));
  return inside ? value : all(-__builtin_inff());
}

/// Scores become weights: 0 where the query at `position` does not see the key.
inline float softmax_of(const AttentionHead& head, std::int64_t position, std::int64_t first_key,
                        std::int64_t end_key, float* row) {
  std::int64_t from = first_key;
  if (head.window > 0 && position - head.window + 1 > from) from = position - head.window + 1;
  const std::int64_t first = from / width * width;
  const std::int64_t end = padded(position + 1);
  for (std::int64_t key = first_key; key < first; key += width) store(row + key, Floats{});
  for (std::int64_t key = end; key < end_key; key += width) store(row + key, Floats{});
  if (from > first) store(row + first, only_lanes(load(row + first), from - first, width));
  if (end > position + 1)
    store(row + end - width, only_lanes(load(row + end - width), 0, position + 1 - end + width));
  return softmax_weights(row + first, head.scale, (end - first) / width);
}

/// Rows of words, `stride` apart.
struct QueryWords {
  const float* first;
  std::int64_t stride;
};
/// @param words  room for them, where they are not the floats themselves
inline QueryWords query_words(const AttentionHead& head, const AttentionRows& rows, std::int64_t first,
                              std::int64_t last, float* words) {
#if defined(__AVX512BF16__)
  const std::int64_t depth = words_of(head.head_dim);
  for (std::int64_t row = first; row < last; ++row)
    to_words(rows.q + row * rows.stride_q, head.head_dim, words + (row - first) * depth);
  return {words, depth};
#else
  static_cast<void>(head);
  static_cast<void>(last);
  static_cast<void>(words);
  return {rows.q + first * rows.stride_q, rows.stride_q};
#endif
}

/// A row of n weights, a multiple of the width, becomes words. @return by what their product with the values
/// is still to be multiplied: 16-bit weights are normalised before they are rounded.
inline float weight_words(float* row, std::int64_t n, float reciprocal) {
#if defined(__AVX512BF16__)
  for (std::int64_t i = 0; i < n; i += width)
    store_words(row + i / per_word, load(row + i) * all(reciprocal));
  return 1.0F;
#else
  static_cast<void>(row);
  static_cast<void>(n);
  return reciprocal;
#endif
}

/// Query rows [first, last) of at most group_rows rows.
void attend_group(const AttentionHead& head, const AttentionRows& rows, std::int64_t first, std::int64_t last,
                  float* scores) {
  constexpr auto block = static_cast<std::int64_t>(block_rows);
  const std::int64_t stride = padded(head.length);
  const std::int64_t seen_from = head.window > 0 && first >= head.window ? first - head.window + 1 : 0;
  const std::int64_t first_key = seen_from / width * width;
  const std::int64_t end_key = padded(last);
  const QueryWords q = query_words(head, rows, first, last, scores + group_rows * stride);
  const std::int64_t count = last - first;
  float reciprocals[group_rows];
  std::int64_t row = 0;
  for (; row + block <= count; row += block)
    score_rows<block_rows>(head, q.first + row * q.stride, q.stride, first_key, end_key,
                           scores + row * stride, stride);
  for (; row < count; ++row)
    score_rows<1>(head, q.first + row * q.stride, q.stride, first_key, end_key, scores + row * stride,
                  stride);
  for (row = 0; row < count; ++row) {
    float* weights = scores + row * stride;
    const float reciprocal = softmax_of(head, first + row, first_key, end_key, weights);
    reciprocals[row] = weight_words(weights + first_key, end_key - first_key, reciprocal);
  }
  float* out = rows.out + first * rows.stride_out;
  for (row = 0; row + block <= count; row += block)
    value_rows<block_rows>(head, scores + row * stride, stride, first_key, end_key, reciprocals + row,
                           out + row * rows.stride_out, rows.stride_out);
  for (; row < count; ++row)
    value_rows<1>(head, scores + row * stride, stride, first_key, end_key, reciprocals + row,
                  out + row * rows.stride_out, rows.stride_out);
}

void attention_rows(const AttentionHead& head, const AttentionRows& rows, float* scratch) {
  for (std::int64_t first = rows.first; first < rows.last; first += group_rows)
    attend_group(head, rows, first, rows.last - first < group_rows ? rows.last : first + group_rows, scratch);
}

}  // namespace

AttentionKernels attention_kernels() {
  return {packed_floats, scratch_floats, pack_values, attention_rows};
}

}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
