// SPDX-License-Identifier: Apache-2.0
// Purpose: the n-th smallest score by radix selection, in units cut by shape: a histogram of the keys' upper
// 12 bits, then two of 10 bits over the few keys that share the digit found. Non-goal: sorting.
#pragma once

#include "../access.hpp"
#include "engine.hpp"
#include <cstdint>
#include <span>
#include <vector>

namespace fedspallm::backend::cpu {

/// Where a search stands: the key's digits known so far, and the index among the keys that share them.
struct Search {
  std::uint32_t key = 0;
  std::int64_t remaining = 0;
};

class Selection {
 public:
  /// Finds the key of the score with `index` smaller or equal ones before it. @pre 0 <= index < scores.size()
  Selection(Engine& engine, Matrix<float> scores, std::int64_t index);

  /// mask = 0 below the key and at the first `equal_to_drop` scores (row-major) that equal it, 1 elsewhere.
  void write(Matrix<std::uint8_t> mask, std::int64_t equal_to_drop) const;
  /// How many scores lie below the key, and how many have it.
  [[nodiscard]] std::int64_t below() const { return below_; }
  [[nodiscard]] std::int64_t equal() const { return equal_; }

 private:
  /// Takes the uppermost digit. @return for each unit: how many scores have it, here and in the units before
  [[nodiscard]] std::vector<std::int64_t> find_first_digit(Search& search);
  /// The keys that have it, unit after unit. Valid until the next op.
  [[nodiscard]] std::span<const std::uint32_t> collect(std::uint32_t digit,
                                                       const std::vector<std::int64_t>& ends);
  /// body(pointer to contiguous scores, row, column, count) for the spans of unit `unit`.
  template <class Body>
  void spans(std::int64_t unit, Body body) const;

  Engine& engine_;
  Matrix<float> scores_;
  Cut units_;
  std::uint32_t key_ = 0;
  std::int64_t below_ = 0, equal_ = 0;
  std::vector<std::int64_t> equal_of_unit_;
};

/// Words of scratch for select_in_row().
[[nodiscard]] constexpr std::int64_t row_selection_words(std::int64_t n) {
  return 2 * kSelectionBins + n;
}
/// mask = 0 at the `count` smallest scores of one row of n, on one thread.
void select_in_row(const PruneKernels& kernels, const float* scores, std::int64_t n, std::int64_t count,
                   std::uint32_t* scratch, std::uint8_t* mask);

}  // namespace fedspallm::backend::cpu
