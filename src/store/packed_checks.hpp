// SPDX-License-Identifier: Apache-2.0
// Purpose: sizes that follow from a shape, and the promises of a packed matrix, checked the same way for
// block files, encoded blocks and bitmask files. Non-goal: reading any of them.
#pragma once

#include "fedspallm/wire/update.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::store {

/// Bytes of a packed mask: ceil(size / 8).
[[nodiscard]] constexpr std::int64_t mask_bytes(std::int64_t size) {
  return size / 8 + (size % 8 != 0 ? 1 : 0);
}

/// Weights of a matrix at most: beyond any model, and so few that sums over many matrices stay below 2^63.
constexpr std::int64_t kLargestMatrix = std::int64_t{1} << 48;
/// rows * cols. @throws DataError "WHERE: ..." when a side is negative or the product is beyond
/// kLargestMatrix
[[nodiscard]] std::int64_t checked_size(std::int64_t rows, std::int64_t cols, const std::string& where);

/// The mask's bytes as words, zero-padded. @pre bytes.size() == mask_bytes(size)
[[nodiscard]] std::vector<std::uint64_t> words_of_mask(std::span<const std::byte> bytes, std::int64_t size);
/// The mask's bytes: ceil(size / 8) of them.
[[nodiscard]] std::span<const std::byte> bytes_of_mask(const wire::PackedMatrix& matrix);

/// What is wrong with the matrix as a packed matrix ("" = nothing): number of mask words, padding bits, count
/// of set bits, bytes of values. Values themselves are not looked at.
[[nodiscard]] std::string packing_fault(const wire::PackedMatrix& matrix);

/// Weights per slice where a whole matrix is unpacked piece by piece: bounds the buffer, and is a multiple
/// of 64.
constexpr std::int64_t kSliceWeights = std::int64_t{1} << 21;

}  // namespace fedspallm::store
