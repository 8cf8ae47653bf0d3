// SPDX-License-Identifier: Apache-2.0
#include "packed_checks.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/format.h>

#include <bit>
#include <cstring>

namespace fedspallm::store {

// Words of a mask are written and read as bytes; the first weight is the lowest bit of the first byte.
static_assert(std::endian::native == std::endian::little, "masks are stored little-endian");

std::int64_t checked_size(std::int64_t rows, std::int64_t cols, const std::string& where) {
  std::int64_t size = 0;
  const bool overflow = __builtin_mul_overflow(rows, cols, &size);
  check<DataError>(
      rows >= 0 && cols >= 0 && !overflow && size <= kLargestMatrix,
      fmt::format("{}: shape {} x {}, expected a matrix of at most 2^48 weights", where, rows, cols));
  return size;
}

std::vector<std::uint64_t> words_of_mask(std::span<const std::byte> bytes, std::int64_t size) {
  require(static_cast<std::int64_t>(bytes.size()) == mask_bytes(size), "a mask has ceil(size / 8) bytes");
  std::vector<std::uint64_t> words(static_cast<std::size_t>(wire::mask_words(size)), 0);
  if (!bytes.empty()) std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

std::span<const std::byte> bytes_of_mask(const wire::PackedMatrix& matrix) {
  return std::as_bytes(std::span(matrix.bits)).first(static_cast<std::size_t>(mask_bytes(matrix.size())));
}

std::string packing_fault(const wire::PackedMatrix& matrix) {
  if (matrix.rows < 0 || matrix.cols < 0)
    return fmt::format("shape {} x {}, expected no negative side", matrix.rows, matrix.cols);
  const std::int64_t size = matrix.size();
  const auto words = static_cast<std::int64_t>(matrix.bits.size());
  if (words != wire::mask_words(size))
    return fmt::format("mask of {} words, expected {} for {} x {}", words, wire::mask_words(size),
                       matrix.rows, matrix.cols);
  if (size % 64 != 0 && (matrix.bits.back() >> (size % 64)) != 0)
    return fmt::format("mask has bits set behind its last weight {}", size);
  const std::int64_t set = wire::count_mask_bits(matrix.bits);
  if (set != matrix.kept)
    return fmt::format("mask keeps {} weights, expected {} as recorded", set, matrix.kept);
  const std::int64_t expected = matrix.kept * static_cast<std::int64_t>(size_of(matrix.dtype));
  const auto found = static_cast<std::int64_t>(matrix.values.size());
  if (found != expected)
    return fmt::format("{} bytes of values, expected {} for {} kept", found, expected, matrix.kept);
  return "";
}

}  // namespace fedspallm::store
