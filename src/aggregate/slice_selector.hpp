// SPDX-License-Identifier: Apache-2.0
// Purpose: which of the tied weights is the last one to go, when each owner sees its own slice only: digit by
// digit of the keys, by histograms summed over the owners; among equal keys by the owners' order. The sums
// are the same in number and length whatever the data, so that their bytes can be forecast.
#pragma once

#include "fedspallm/aggregate/slices.hpp"

#include "tie_order.hpp"
#include "tie_selector.hpp"
#include <cstdint>
#include <span>
#include <vector>

namespace fedspallm::aggregate {

class SliceSelector {
 public:
  static constexpr int kDigitBits = 9;
  static constexpr int kDigits = 7;  // 63 bits: a double's sign bit is 0
  static constexpr std::int64_t kBins = std::int64_t{1} << kDigitBits;

  /// @param tied  a word for each tile of the slice
  SliceSelector(const TieOrder& order, std::span<const std::uint64_t> tied, const SlicePlace& place,
                const SumOverOwners& sum)
      : order_(order), tied_(tied), place_(place), sum_(sum) {}

  /// The slice's part of the cut at the `rank`-th smallest (key, index) of all owners' tied weights; its
  /// index counts within the slice, -1 = none of those with the cut's key go.
  /// @param rank  0: nothing is asked for, the sums are made all the same
  /// @pre rank <= number of tied weights of all owners
  [[nodiscard]] Cut select(std::int64_t rank);

 private:
  template <class Visit>
  void for_each_candidate(Visit visit);
  [[nodiscard]] std::int64_t choose_digit(std::int64_t rank);
  [[nodiscard]] std::uint64_t low_bits() const { return (std::uint64_t{1} << shift_) - 1; }

  const TieOrder& order_;
  std::span<const std::uint64_t> tied_;
  SlicePlace place_;
  const SumOverOwners& sum_;
  int shift_ = kDigits * kDigitBits;  // bits below it are not chosen yet
  std::uint64_t prefix_ = 0;
  std::int64_t own_ = -1;  // own candidates with the prefix, once known
  bool listed_ = false;
  std::vector<TiedWeight> list_;  // own candidates, once they are few
};

}  // namespace fedspallm::aggregate
