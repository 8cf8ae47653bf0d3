// SPDX-License-Identifier: Apache-2.0
// Purpose: several clients' packed matrices on their way into tiles, one run of consecutive tiles at a time:
// where each run's values begin, and their addition. Who adds which run when is the caller's business
// (partial_merge.cpp: a pool's threads; shared_merge.cpp: processes that share the tiles).
#pragma once

#include "fedspallm/aggregate/merge.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace fedspallm::aggregate {

struct Kernels;

class PackedAddition {
 public:
  /// @param run  tiles in each run but the last
  /// @throws LogicError unless each matrix is `rows` x `cols` and has as many mask bits and values as it says
  PackedAddition(std::span<const wire::PackedMatrix* const> matrices, std::int64_t rows, std::int64_t cols,
                 FixedPoint scale, std::int64_t run);
  /// Adds all matrices' values of one run. Any runs at once, from any threads.
  /// @param tiles  of the whole matrix
  /// @returns the pattern of the largest |value|, for check_largest()
  [[nodiscard]] std::uint32_t add(std::int64_t number, std::span<Tile> tiles) const;
  /// @throws LogicError when a value that was added cannot be represented
  void check_largest(std::uint32_t pattern) const;

 private:
  const Kernels& kernels_;
  std::span<const wire::PackedMatrix* const> matrices_;
  FixedPoint scale_;
  std::int64_t run_, tiles_;
  std::vector<std::vector<std::int64_t>> offsets_;  // by matrix and run: its first value
};

}  // namespace fedspallm::aggregate
