// SPDX-License-Identifier: Apache-2.0
// Purpose: the n-th smallest score by radix selection (three histograms of 12, 10 and 10 bits), in units cut
// by shape. Non-goal: sorting.
#pragma once

#include "../access.hpp"
#include "engine.hpp"
#include <cstdint>
#include <vector>

namespace fedspallm::backend::cpu {

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
  /// Narrows the key by one digit.
  void digit(int shift, std::uint32_t digit_mask, int prefix_shift);
  /// body(pointer to contiguous scores, row, column, count) for the spans of unit `unit`.
  template <class Body>
  void spans(std::int64_t unit, Body body) const;

  Engine& engine_;
  Matrix<float> scores_;
  Cut units_;
  std::int64_t remaining_;  // index within the scores that share the known digits
  std::uint32_t key_ = 0;
  std::int64_t below_ = 0, equal_ = 0;
  std::vector<std::int64_t> equal_of_unit_;
};

/// mask = 0 at the `count` smallest scores of one row of n, on one thread. histogram: 4096 words.
void select_in_row(const PruneKernels& kernels, const float* scores, std::int64_t n, std::int64_t count,
                   std::uint32_t* histogram, std::uint8_t* mask);

}  // namespace fedspallm::backend::cpu
