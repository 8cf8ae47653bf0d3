// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"

#include "huge_pages.hpp"
#include "kernels.hpp"
#include "packed_addition.hpp"
#include "units.hpp"
#include <algorithm>

namespace fedspallm::aggregate {

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

PartialMerge::PartialMerge(std::int64_t rows, std::int64_t cols, FixedPoint scale, FixedPoint diagonal_scale,
                           std::span<Tile> tiles, std::span<std::int64_t> diagonal)
    : rows_(rows),
      cols_(cols),
      scale_(scale),
      diagonal_scale_(diagonal_scale),
      lent_tiles_(tiles),
      lent_diagonal_(diagonal) {
  require(rows >= 0 && cols >= 0, "PartialMerge: rows, cols >= 0");
  require(std::ssize(tiles) == wire::mask_words(rows * cols) && std::ssize(diagonal) == cols,
          "PartialMerge: lent memory of the matrix' shape");
}

void PartialMerge::add(const wire::PackedMatrix& matrix, ThreadPool* pool) {
  const wire::PackedMatrix* const one[] = {&matrix};
  add(one, pool);
}

void PartialMerge::add(std::span<const wire::PackedMatrix* const> matrices, ThreadPool* pool) {
  const PackedAddition addition(matrices, rows_, cols_, scale_, kUnit);
  const std::span<Tile> all = tiles();
  std::vector<std::uint32_t> largest(static_cast<std::size_t>(units_of(std::ssize(all))), 0);
  for_each_unit(pool, std::ssize(all), [&](std::int64_t unit, std::int64_t, std::int64_t, int) {
    largest[static_cast<std::size_t>(unit)] = addition.add(unit, all);
  });
  addition.check_largest(largest.empty() ? 0 : *std::max_element(largest.begin(), largest.end()));
}

void PartialMerge::add_diagonal(std::span<const float> diagonal) {
  require(std::ssize(diagonal) == cols_, "PartialMerge::add_diagonal: cols values");
  const std::span<std::int64_t> sums = diagonal_sums();
  for (std::size_t column = 0; column < diagonal.size(); ++column) {
    require(diagonal[column] >= 0, "PartialMerge::add_diagonal: values >= 0");
    sums[column] += quantize(diagonal[column], diagonal_scale_);
  }
}

void PartialMerge::add(const PartialMerge& other) {
  require(this != &other, "PartialMerge::add: another state");
  require(rows_ == other.rows_ && cols_ == other.cols_, "PartialMerge::add: same shape");
  require(scale_ == other.scale_ && diagonal_scale_ == other.diagonal_scale_,
          "PartialMerge::add: same scales");
  add_tiles(other.tiles(), tiles());
  const std::span<std::int64_t> sums = diagonal_sums();
  for (std::size_t column = 0; column < sums.size(); ++column) sums[column] += other.diagonal_sums()[column];
}

}  // namespace fedspallm::aggregate
