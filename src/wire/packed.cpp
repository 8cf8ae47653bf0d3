// SPDX-License-Identifier: Apache-2.0
// PackedMatrix: from and to dense, and questions about its values.
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/wire/update.hpp"

#include "kernels.hpp"
#include <algorithm>
#include <array>
#include <cstring>

namespace fedspallm::wire {

namespace {

const unsigned char* values_of(const PackedMatrix& matrix) {
  return reinterpret_cast<const unsigned char*>(matrix.values.data());
}

std::size_t index_of(DType type) {
  return static_cast<std::size_t>(type);
}

ValueScan scan(const PackedMatrix& matrix) {
  require(std::ssize(matrix.values) == matrix.kept * static_cast<std::int64_t>(size_of(matrix.dtype)),
          "PackedMatrix: one value per kept weight");
  return kernels_for(select_isa()).scan_values[index_of(matrix.dtype)](values_of(matrix), matrix.kept);
}

/// The mask and the values must agree before a kernel walks both.
void require_unpackable(const PackedMatrix& matrix) {
  require(std::ssize(matrix.bits) == mask_words(matrix.size()),
          "unpack: one mask bit per weight, in 64-bit words");
  require(std::ssize(matrix.values) == matrix.kept * static_cast<std::int64_t>(size_of(matrix.dtype)),
          "unpack: one value per kept weight");
  require(count_mask_bits(matrix.bits) == matrix.kept, "unpack: as many set mask bits as kept weights");
}

}  // namespace

std::int64_t count_mask_bits(std::span<const std::uint64_t> words) {
  return kernels_for(select_isa()).count_set_bits(words.data(), std::ssize(words));
}

PackedMatrix pack(std::int64_t rows, std::int64_t cols, DType dtype, std::span<const float> dense,
                  std::span<const std::uint8_t> kept) {
  require(rows >= 0 && cols >= 0, "pack: rows, cols >= 0");
  require(std::ssize(dense) == rows * cols && dense.size() == kept.size(),
          "pack: one value and one flag per weight");
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.dtype = dtype;
  matrix.bits.assign(static_cast<std::size_t>(mask_words(matrix.size())), 0);
  for (std::size_t i = 0; i < kept.size(); ++i)
    matrix.bits[i / 64] |= static_cast<std::uint64_t>(kept[i] != 0 ? 1 : 0) << (i % 64);
  matrix.kept = count_mask_bits(matrix.bits);
  matrix.values.resize(static_cast<std::size_t>(matrix.kept) * size_of(dtype));
  std::array<float, 64> tile{};
  std::byte* destination = matrix.values.data();
  for (std::size_t start = 0; start < dense.size(); start += tile.size()) {
    const std::size_t end = std::min(dense.size(), start + tile.size());
    std::size_t count = 0;
    for (std::size_t i = start; i < end;
         ++i) {  // branch-free: a dropped value is overwritten by the next one
      tile[count] = dense[i];
      count += kept[i] != 0 ? 1U : 0U;
    }
    if (count > 0) narrow(dtype, tile.data(), destination, count);
    destination += count * size_of(dtype);
  }
  return matrix;
}

float largest_magnitude(const PackedMatrix& matrix) {
  const std::uint32_t bits = scan(matrix).largest_bits;
  float value = 0;
  if (matrix.dtype == DType::f32) {
    std::memcpy(&value, &bits, sizeof value);
  } else {
    const auto narrow_bits = static_cast<std::uint16_t>(bits);
    widen(matrix.dtype, &narrow_bits, &value, 1);
  }
  return value;
}

std::int64_t count_kept_zeros(const PackedMatrix& matrix) {
  return scan(matrix).zeros;
}

void unpack(const PackedMatrix& matrix, std::span<float> destination) {
  require_unpackable(matrix);
  require(std::ssize(destination) == matrix.size(), "unpack: one destination element per weight");
  kernels_for(select_isa())
      .unpack_floats[index_of(matrix.dtype)](matrix.bits.data(), values_of(matrix), matrix.kept,
                                             reinterpret_cast<unsigned char*>(destination.data()),
                                             matrix.size());
}

void unpack_stored(const PackedMatrix& matrix, std::span<std::byte> destination) {
  require_unpackable(matrix);
  require(std::ssize(destination) == matrix.size() * static_cast<std::int64_t>(size_of(matrix.dtype)),
          "unpack_stored: one destination element per weight");
  kernels_for(select_isa())
      .unpack_stored[index_of(matrix.dtype)](matrix.bits.data(), values_of(matrix), matrix.kept,
                                             reinterpret_cast<unsigned char*>(destination.data()),
                                             matrix.size());
}

PackedMatrix slice(const PackedMatrix& matrix, std::int64_t begin, std::int64_t end, std::int64_t& value) {
  require((begin % 64 == 0 || begin == end) && begin >= 0 && begin <= end && end <= matrix.size(),
          "slice: it begins at a mask word");
  PackedMatrix part;
  part.rows = end - begin;
  part.cols = 1;
  part.dtype = matrix.dtype;
  if (begin == end) return part;
  const auto first = matrix.bits.begin() + begin / 64;
  part.bits.assign(first, first + mask_words(end - begin));
  if ((end - begin) % 64 != 0) part.bits.back() &= (std::uint64_t{1} << ((end - begin) % 64)) - 1;
  part.kept = count_mask_bits(part.bits);
  const auto width = static_cast<std::int64_t>(size_of(matrix.dtype));
  const auto values = matrix.values.begin() + value * width;
  part.values.assign(values, values + part.kept * width);
  value += part.kept;
  return part;
}

}  // namespace fedspallm::wire
