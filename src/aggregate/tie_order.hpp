// SPDX-License-Identifier: Apache-2.0
// Purpose: the order in which weights of equal votes go: smaller key first, then smaller row-major index.
#pragma once

#include "fedspallm/aggregate/rules.hpp"
#include "fedspallm/base/dtype.hpp"

#include "kernels.hpp"
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fedspallm::aggregate {

/// Keys of the 64 weights of one tile, patterns of non-negative doubles.
using TileKeys = std::array<std::uint64_t, 64>;

class TieOrder {
 public:
  /// @param elements  dense merged elements of `dtype`, whole tiles; must outlive this
  /// @param diagonal_sums  cols values >= 0 (score)
  /// @param first  row-major index of the first element in its matrix of `cols` columns
  TieOrder(const Kernels& kernels, TieRule tie, DType dtype, const std::byte* elements, std::int64_t cols,
           std::span<const std::int64_t> diagonal_sums, std::int64_t first = 0);

  void keys(std::int64_t tile, TileKeys& keys) const;
  /// The same for elements that are not in their place yet.
  void keys_of(const unsigned char* elements, std::int64_t tile, TileKeys& keys) const;
  /// All keys are 0: only the index counts.
  [[nodiscard]] bool keys_are_equal() const { return tie_ == TieRule::index; }
  /// @pre low, high < 2^63
  [[nodiscard]] KeyMasks compare(const TileKeys& keys, std::uint64_t low, std::uint64_t high) const {
    return kernels_.compare_keys(keys.data(), low, high);
  }

 private:
  const Kernels& kernels_;
  TieRule tie_;
  std::size_t dtype_, element_bytes_;
  const unsigned char* elements_;
  std::int64_t cols_, first_;
  std::vector<double>
      column_weights_;  // 64 more than columns, so that a tile reads on over the end of its row
};

}  // namespace fedspallm::aggregate
