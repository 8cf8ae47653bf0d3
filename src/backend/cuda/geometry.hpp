// SPDX-License-Identifier: Apache-2.0
// Purpose: launch geometry and workspace arithmetic of the CUDA backend as plain functions of shapes, so that
// they are tested without a GPU. They depend on shapes alone, never on the device: an op's order of
// summation, and so its bits, is the same wherever the same libraries run. Non-goal: launching.
#pragma once

#include "fedspallm/base/rounding.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace fedspallm::backend::cuda {

constexpr unsigned warp_size = 32;
constexpr unsigned block_threads = 256;  // of kernels that say nothing else
constexpr unsigned block_warps = block_threads / warp_size;
constexpr std::int64_t largest_grid_x = 2147483647;
constexpr std::int64_t largest_grid_y = 65535;

/// Blocks and threads of one launch; nothing is launched when there are no blocks.
struct Geometry {
  std::int64_t grid_x = 0, grid_y = 1;
  unsigned threads = block_threads;
  [[nodiscard]] constexpr bool empty() const { return grid_x == 0 || grid_y == 0; }
  [[nodiscard]] constexpr bool valid() const {
    return grid_x <= largest_grid_x && grid_y <= largest_grid_y && threads >= 1 && threads <= 1024;
  }
};

/// Columns that one thread of an elementwise kernel visits, `threads` apart: independent loads in flight.
constexpr std::int64_t elements_per_thread = 4;

/// Elementwise kernels: blocks over columns (x) and rows (y; a block takes every grid_y-th row).
[[nodiscard]] constexpr Geometry elementwise_geometry(std::int64_t rows, std::int64_t cols) {
  if (rows <= 0 || cols <= 0) return {};
  const auto threads =
      static_cast<unsigned>(std::min<std::int64_t>(block_threads, round_up(cols, warp_size)));
  return {divide_up(cols, threads * elements_per_thread), std::min(rows, largest_grid_y), threads};
}

/// Kernels with one block per row, as many threads as leave each some columns.
[[nodiscard]] constexpr Geometry row_geometry(std::int64_t rows, std::int64_t cols) {
  const std::int64_t threads = round_up(divide_up(cols, elements_per_thread), warp_size);
  return {rows, 1, static_cast<unsigned>(std::clamp<std::int64_t>(threads, warp_size, block_threads))};
}
/// Kernels with full blocks, one for each of `count` things.
[[nodiscard]] constexpr Geometry block_geometry(std::int64_t count) {
  return {count, 1, block_threads};
}

/// Flat element ranges of equal size, one block each.
struct Units {
  std::int64_t size = 0;  // elements in all
  std::int64_t unit = 1;  // elements of a unit, the last one has fewer
  [[nodiscard]] constexpr std::int64_t count() const { return divide_up(size, unit); }
  [[nodiscard]] constexpr Geometry geometry() const { return {count(), 1, block_threads}; }
};

/// Units of packing and unpacking: whole 64-bit words of bits.
constexpr std::int64_t pack_unit = 4096;
[[nodiscard]] constexpr Units pack_units(std::int64_t size) {
  return {size, pack_unit};
}

/// Units of a selection: at most 1024 of them, so that joining their histograms costs little.
constexpr std::int64_t select_unit = 8192;
[[nodiscard]] constexpr Units select_units(std::int64_t size) {
  return {size, std::max(select_unit, round_up(divide_up(size, 1024), block_threads))};
}
/// Three digits of a 32-bit key, highest first.
constexpr int select_digits = 3;
constexpr int select_digit_bits[select_digits] = {11, 11, 10};
constexpr int select_digit_shift[select_digits] = {21, 10, 0};
constexpr unsigned select_bins = 2048;

/// Six digits of a 63-bit key (a double without its sign), highest first: the first one is the exponent.
constexpr int merge_digits = 6;
constexpr int merge_digit_bits[merge_digits] = {11, 11, 11, 10, 10, 10};
constexpr int merge_digit_shift[merge_digits] = {52, 41, 30, 20, 10, 0};

/// Bytes of one weight's votes: as few as hold the number of clients.
[[nodiscard]] constexpr int merge_vote_width(std::uint32_t clients) {
  return clients < (1U << 8) ? 1 : clients < (1U << 16) ? 2 : 4;
}

/// Units of sums of squares: one double each.
constexpr std::int64_t sum_unit = 8192;
[[nodiscard]] constexpr Units sum_units(std::int64_t size) {
  return {size, sum_unit};
}

/// The sweep works on column blocks of at most this many columns; wider ones are cut (with a product between
/// the pieces), at group boundaries for N:M.
constexpr std::int64_t sweep_columns = 128;
constexpr int sweep_rows_per_warp = 4;
constexpr std::int64_t sweep_rows = sweep_rows_per_warp * static_cast<std::int64_t>(block_warps);
/// @pre 0 <= m <= sweep_columns; 0 = a given mask, no groups
[[nodiscard]] constexpr std::int64_t sweep_piece(int m) {
  return m <= 0 ? sweep_columns : sweep_columns / m * m;
}
/// Tiles of 32 columns, 1 to 4.
[[nodiscard]] constexpr int sweep_tiles(std::int64_t columns) {
  return static_cast<int>(divide_up(columns, warp_size));
}
[[nodiscard]] constexpr Geometry sweep_geometry(std::int64_t rows) {
  return {divide_up(rows, sweep_rows), 1, block_threads};
}
/// Floats of U that a sweep of `tiles` tiles keeps in shared memory: row j only from its own tile on.
[[nodiscard]] constexpr unsigned sweep_factor_floats(int tiles) {
  return warp_size * warp_size * static_cast<unsigned>(tiles * (tiles + 1) / 2);
}

/// Rows of queries that attention works on together: the scores of all heads of these rows against all keys
/// stay within `attention_bytes`, never a whole sequence against itself when that is larger.
constexpr std::int64_t attention_bytes = std::int64_t{64} << 20;
constexpr std::int64_t attention_largest_tile = 256;
[[nodiscard]] constexpr std::int64_t attention_tile_rows(std::int64_t sequence_length, std::int64_t heads) {
  const std::int64_t row_bytes = std::max<std::int64_t>(1, sequence_length * heads * 4);
  const std::int64_t rows = attention_bytes / row_bytes / 16 * 16;
  return std::min(sequence_length, std::clamp<std::int64_t>(rows, 16, attention_largest_tile));
}
/// First key that any query of [first_query, ...) sees.
[[nodiscard]] constexpr std::int64_t attention_first_key(std::int64_t first_query, std::int64_t window) {
  return window > 0 ? std::max<std::int64_t>(0, first_query - window + 1) : 0;
}

/// Columns of one tile of a Hessian from 16-bit inputs: a product of its rows with the tiles to the right.
/// Large tiles fill more multiprocessors (a product of 2048 x 2048 has 128 blocks of 128 x 256), small ones
/// compute less below the diagonal.
[[nodiscard]] constexpr std::int64_t gram_tile(std::int64_t columns) {
  return columns >= 4096 ? 2048 : 1024;
}

/// Elements that copy_in_widened brings to the device at a time.
constexpr std::int64_t widen_chunk = std::int64_t{1} << 24;

/// What a launch's workspace holds: offsets of its parts, each aligned for any element type.
class Layout {
 public:
  static constexpr std::size_t alignment = 256;
  /// @return the offset of a part of `count` elements of T
  template <class T>
  constexpr std::size_t add(std::int64_t count) {
    const std::size_t offset = bytes_;
    const std::size_t wanted = static_cast<std::size_t>(std::max<std::int64_t>(count, 0)) * sizeof(T);
    bytes_ += (wanted + alignment - 1) / alignment * alignment;
    return offset;
  }
  [[nodiscard]] constexpr std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_ = 0;
};

/// Offsets of what attention needs for one sequence. Of 16-bit products: narrowed queries, keys, values and
/// weights, too.
struct AttentionLayout {
  std::size_t scores = 0, weights = 0, queries = 0, keys = 0, values = 0, bytes = 0;
};
[[nodiscard]] constexpr AttentionLayout attention_layout(std::int64_t sequence_length, std::int64_t heads,
                                                         std::int64_t kv_heads, std::int64_t head_dim,
                                                         bool narrowed) {
  const std::int64_t scores = heads * attention_tile_rows(sequence_length, heads) * sequence_length;
  const std::int64_t key_elements = sequence_length * kv_heads * head_dim;
  Layout layout;
  AttentionLayout result;
  result.scores = layout.add<float>(scores);
  if (narrowed) {
    result.weights = layout.add<std::uint16_t>(scores);
    result.queries = layout.add<std::uint16_t>(sequence_length * heads * head_dim);
    result.keys = layout.add<std::uint16_t>(key_elements);
    result.values = layout.add<std::uint16_t>(key_elements);
  }
  result.bytes = layout.bytes();
  return result;
}

/// Offsets of what finishing a merge of `size` weights needs beside its sums; the packed values lie where the
/// sums were.
struct MergeLayout {
  std::size_t elements = 0, votes = 0, bits = 0, column_weights = 0, kept_by = 0, bins = 0, counts = 0,
              starts = 0, state = 0, facts = 0;
  std::size_t bytes = 0;
};
/// @param columns  whose weights matter, 0 = none
[[nodiscard]] constexpr MergeLayout merge_layout(std::int64_t size, std::int64_t columns,
                                                 std::uint32_t clients, std::int64_t element_bytes) {
  const std::int64_t units = pack_units(size).count();
  Layout layout;
  MergeLayout result;
  result.elements = layout.add<std::byte>(size * element_bytes);
  result.votes = layout.add<std::byte>(size * merge_vote_width(clients));
  result.bits = layout.add<std::uint64_t>(divide_up(size, 64));
  result.column_weights = layout.add<std::int64_t>(columns);
  result.kept_by = layout.add<std::uint64_t>(std::int64_t{clients} + 2);
  result.bins = layout.add<std::uint32_t>(select_bins);
  result.counts = layout.add<std::uint32_t>(units);
  result.starts = layout.add<std::uint64_t>(units + 1);
  result.state = layout.add<std::uint64_t>(3);
  result.facts = layout.add<std::uint64_t>(4);
  result.bytes = layout.bytes();
  return result;
}

}  // namespace fedspallm::backend::cuda
