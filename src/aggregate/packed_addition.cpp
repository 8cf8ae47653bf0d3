// SPDX-License-Identifier: Apache-2.0
#include "packed_addition.hpp"

#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"

#include "kernels.hpp"
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

/// For each run, where the values of its first tile start; the last entry is the number of set bits.
std::vector<std::int64_t> value_offsets(const wire::PackedMatrix& matrix, std::int64_t run) {
  const std::int64_t tiles = std::ssize(matrix.bits);
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t first = 0; first < tiles; first += run) {
    const auto count = static_cast<std::size_t>(std::min(run, tiles - first));
    offsets.push_back(
        offsets.back() +
        wire::count_mask_bits(std::span(matrix.bits).subspan(static_cast<std::size_t>(first), count)));
  }
  return offsets;
}

}  // namespace

PackedAddition::PackedAddition(std::span<const wire::PackedMatrix* const> matrices, std::int64_t rows,
                               std::int64_t cols, FixedPoint scale, std::int64_t run)
    : kernels_(kernels_for(select_isa())),
      matrices_(matrices),
      scale_(scale),
      run_(run),
      tiles_(wire::mask_words(rows * cols)) {
  for (const wire::PackedMatrix* matrix : matrices) {
    require(matrix != nullptr, "PackedAddition: no null pointers");
    require(matrix->rows == rows && matrix->cols == cols, "PackedAddition: same shape");
    require(
        std::ssize(matrix->bits) == tiles_ &&
            std::ssize(matrix->values) == matrix->kept * static_cast<std::int64_t>(size_of(matrix->dtype)),
        "PackedAddition: mask and values agree with shape and count");
    offsets_.push_back(value_offsets(*matrix, run));
    require(offsets_.back().back() == matrix->kept, "PackedAddition: as many set mask bits as kept weights");
  }
}

std::uint32_t PackedAddition::add(std::int64_t number, std::span<Tile> tiles) const {
  const std::int64_t first = number * run_, last = std::min(tiles_, first + run_);
  std::vector<std::int64_t> used;  // values of each matrix
  for (const auto& offsets : offsets_) used.push_back(offsets[static_cast<std::size_t>(number)]);
  std::uint32_t largest = 0;
  for (std::int64_t tile = first; tile < last; tile += kPanel) {
    const std::int64_t count = std::min(kPanel, last - tile);
    for (std::size_t i = 0; i < matrices_.size(); ++i) {
      const wire::PackedMatrix& matrix = *matrices_[i];
      const auto bytes = static_cast<std::int64_t>(size_of(matrix.dtype));
      const Added added = kernels_.add_packed[static_cast<std::size_t>(matrix.dtype)](
          matrix.bits.data() + tile, count, bytes_of(matrix.values) + used[i] * bytes, matrix.kept - used[i],
          scale_.q, tiles.data() + tile);
      used[i] += added.used;
      largest = std::max(largest, added.largest_bits);
    }
  }
  return largest;
}

void PackedAddition::check_largest(std::uint32_t pattern) const {
  require(static_cast<double>(std::bit_cast<float>(pattern)) <= std::ldexp(1.0, scale_.q + 56),
          "PackedAddition: values at most 2^(q + 56), the scale agreed on");
}

}  // namespace fedspallm::aggregate
