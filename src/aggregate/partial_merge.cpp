// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"

#include "huge_pages.hpp"
#include "kernels.hpp"
#include "units.hpp"
#include <algorithm>
#include <bit>
#include <cmath>

namespace fedspallm::aggregate {

namespace {

constexpr std::int64_t kPanel =
    32;  // tiles that stay in the first-level cache while client after client adds to them

const unsigned char* bytes_of(const std::vector<std::byte>& bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

void require_addable(const PartialMerge& merge, const wire::PackedMatrix& matrix) {
  require(matrix.rows == merge.rows() && matrix.cols == merge.cols(), "PartialMerge::add: same shape");
  require(std::ssize(matrix.bits) == wire::mask_words(matrix.size()) &&
              std::ssize(matrix.values) == matrix.kept * static_cast<std::int64_t>(size_of(matrix.dtype)),
          "PartialMerge::add: mask and values agree with shape and count");
}

/// For each unit, where the values of its first tile start; the last entry is the number of set bits.
std::vector<std::int64_t> value_offsets(const wire::PackedMatrix& matrix) {
  const std::int64_t tiles = std::ssize(matrix.bits);
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t first = 0; first < tiles; first += kUnit) {
    const auto count = static_cast<std::size_t>(std::min(kUnit, tiles - first));
    offsets.push_back(
        offsets.back() +
        wire::count_mask_bits(std::span(matrix.bits).subspan(static_cast<std::size_t>(first), count)));
  }
  return offsets;
}

/// One client's place in its values while a unit is worked on.
struct Cursor {
  const wire::PackedMatrix* matrix;
  std::int64_t used;
};

/// Adds the tiles [first, last) of all clients, panel by panel. Returns the pattern of the largest |value|.
std::uint32_t add_unit(const Kernels& kernels, std::vector<Cursor> cursors, int q, std::span<Tile> tiles,
                       std::int64_t first, std::int64_t last) {
  std::uint32_t largest = 0;
  for (std::int64_t tile = first; tile < last; tile += kPanel) {
    const std::int64_t count = std::min(kPanel, last - tile);
    for (Cursor& cursor : cursors) {
      const wire::PackedMatrix& matrix = *cursor.matrix;
      const auto bytes = static_cast<std::int64_t>(size_of(matrix.dtype));
      const Added added = kernels.add_packed[static_cast<std::size_t>(matrix.dtype)](
          matrix.bits.data() + tile, count, bytes_of(matrix.values) + cursor.used * bytes,
          matrix.kept - cursor.used, q, tiles.data() + tile);
      cursor.used += added.used;
      largest = std::max(largest, added.largest_bits);
    }
  }
  return largest;
}

}  // namespace

void add_tiles(std::span<const Tile> from, std::span<Tile> into) {
  require(from.size() == into.size(), "add_tiles: equal numbers of tiles");
  kernels_for(select_isa()).add_tiles(from.data(), into.data(), std::ssize(from));
}

PartialMerge::PartialMerge(std::int64_t rows, std::int64_t cols, FixedPoint scale, FixedPoint diagonal_scale)
    : rows_(rows), cols_(cols), scale_(scale), diagonal_scale_(diagonal_scale) {
  require(rows >= 0 && cols >= 0, "PartialMerge: rows, cols >= 0");
  const auto tiles = static_cast<std::size_t>(wire::mask_words(rows * cols));
  tiles_.reserve(tiles);
  ask_for_huge_pages(tiles_.data(), tiles * sizeof(Tile));
  tiles_.resize(tiles);
  diagonal_.resize(static_cast<std::size_t>(cols));
}

void PartialMerge::add(const wire::PackedMatrix& matrix, ThreadPool* pool) {
  const wire::PackedMatrix* const one[] = {&matrix};
  add(one, pool);
}

void PartialMerge::add(std::span<const wire::PackedMatrix* const> matrices, ThreadPool* pool) {
  std::vector<std::vector<std::int64_t>> offsets;
  for (const wire::PackedMatrix* matrix : matrices) {
    require(matrix != nullptr, "PartialMerge::add: no null pointers");
    require_addable(*this, *matrix);
    offsets.push_back(value_offsets(*matrix));
    require(offsets.back().back() == matrix->kept,
            "PartialMerge::add: as many set mask bits as kept weights");
  }
  const Kernels& kernels = kernels_for(select_isa());
  const std::int64_t tiles = std::ssize(tiles_);
  std::vector<std::uint32_t> largest(static_cast<std::size_t>(units_of(tiles)), 0);
  for_each_unit(pool, tiles, [&](std::int64_t unit, std::int64_t first, std::int64_t last, int) {
    const auto index = static_cast<std::size_t>(unit);
    std::vector<Cursor> cursors;
    for (std::size_t i = 0; i < matrices.size(); ++i) cursors.push_back({matrices[i], offsets[i][index]});
    largest[index] = add_unit(kernels, std::move(cursors), scale_.q, tiles_, first, last);
  });
  const std::uint32_t most = largest.empty() ? 0 : *std::max_element(largest.begin(), largest.end());
  require(static_cast<double>(std::bit_cast<float>(most)) <= std::ldexp(1.0, scale_.q + 56),
          "PartialMerge::add: values at most 2^(q + 56), the scale agreed on");
}

void PartialMerge::add_diagonal(std::span<const float> diagonal) {
  require(std::ssize(diagonal) == cols_, "PartialMerge::add_diagonal: cols values");
  for (std::size_t column = 0; column < diagonal.size(); ++column) {
    require(diagonal[column] >= 0, "PartialMerge::add_diagonal: values >= 0");
    diagonal_[column] += quantize(diagonal[column], diagonal_scale_);
  }
}

void PartialMerge::add(const PartialMerge& other) {
  require(this != &other, "PartialMerge::add: another state");
  require(rows_ == other.rows_ && cols_ == other.cols_, "PartialMerge::add: same shape");
  require(scale_ == other.scale_ && diagonal_scale_ == other.diagonal_scale_,
          "PartialMerge::add: same scales");
  add_tiles(other.tiles_, tiles_);
  for (std::size_t column = 0; column < diagonal_.size(); ++column)
    diagonal_[column] += other.diagonal_[column];
}

}  // namespace fedspallm::aggregate
