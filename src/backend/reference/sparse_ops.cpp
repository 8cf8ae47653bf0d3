// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/dtype.hpp"

#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"
#include <algorithm>

namespace fedspallm::backend::reference {

std::int64_t ReferenceSparse::pack(View w, View mask, DType dtype, std::span<std::uint64_t> bits,
                                   std::vector<std::byte>& values) {
  checks::pack(owner_, w, mask, bits);
  const auto weights = floats(w);
  const auto kept = bytes(mask);
  std::fill(bits.begin(), bits.end(), std::uint64_t{0});
  values.clear();
  std::int64_t count = 0;
  for (std::int64_t row = 0; row < weights.rows; ++row) {
    for (std::int64_t col = 0; col < weights.cols; ++col) {
      if (kept.at(row, col) == 0) continue;
      const auto index = static_cast<std::size_t>(row * weights.cols + col);
      bits[index / 64] |= std::uint64_t{1} << (index % 64);
      values.resize(values.size() + size_of(dtype));
      narrow(dtype, &weights.at(row, col), values.data() + values.size() - size_of(dtype), 1);
      ++count;
    }
  }
  return count;
}

void ReferenceSparse::unpack(std::span<const std::uint64_t> bits, std::span<const std::byte> values,
                             DType dtype, View w) {
  static_cast<void>(checks::unpack(owner_, bits, values, dtype, w));
  const auto weights = floats(w);
  const std::byte* next = values.data();
  for (std::int64_t row = 0; row < weights.rows; ++row) {
    for (std::int64_t col = 0; col < weights.cols; ++col) {
      const auto index = static_cast<std::size_t>(row * weights.cols + col);
      weights.at(row, col) = 0.0F;
      if (((bits[index / 64] >> (index % 64)) & 1U) == 0) continue;
      widen(dtype, next, &weights.at(row, col), 1);
      next += size_of(dtype);
    }
  }
}

void ReferenceSparse::unpack_mask(std::span<const std::uint64_t> bits, View mask) {
  checks::unpack_mask(owner_, bits, mask);
  const auto result = bytes(mask);
  for (std::int64_t row = 0; row < result.rows; ++row) {
    for (std::int64_t col = 0; col < result.cols; ++col) {
      const auto index = static_cast<std::size_t>(row * result.cols + col);
      result.at(row, col) = static_cast<std::uint8_t>((bits[index / 64] >> (index % 64)) & 1U);
    }
  }
}

}  // namespace fedspallm::backend::reference
