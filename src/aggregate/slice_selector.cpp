// SPDX-License-Identifier: Apache-2.0
#include "slice_selector.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

namespace fedspallm::aggregate {

/// Calls visit(key, index) for the tied weights whose keys have the prefix, by index. Once they are at most a
/// sixteenth of the slice they are put on a list, and the elements are not looked at again.
template <class Visit>
void SliceSelector::for_each_candidate(Visit visit) {
  const std::uint64_t last = prefix_ | low_bits();
  if (listed_) {
    std::erase_if(list_, [&](const TiedWeight& one) { return one.first < prefix_ || one.first > last; });
    for (const auto& [key, index] : list_) visit(key, index);
    return;
  }
  listed_ = own_ >= 0 && own_ <= std::ssize(tied_) * 4;
  TileKeys keys;
  for (std::int64_t tile = 0; tile < std::ssize(tied_); ++tile) {
    std::uint64_t word = tied_[static_cast<std::size_t>(tile)];
    if (word == 0) continue;
    order_.keys(tile, keys);
    word &= order_.compare(keys, prefix_, last).inside;
    for (; word != 0; word &= word - 1) {
      const auto lane = static_cast<std::size_t>(std::countr_zero(word));
      const std::int64_t index = tile * 64 + static_cast<std::int64_t>(lane);
      if (listed_) list_.emplace_back(keys[lane], index);
      visit(keys[lane], index);
    }
  }
}

/// Appends to the prefix the next digit of the wanted key. Returns the rank among those that share it.
std::int64_t SliceSelector::choose_digit(std::int64_t rank) {
  const int next = shift_ - kDigitBits;
  std::vector<std::int64_t> counts(kBins, 0);
  if (rank > 0)
    for_each_candidate([&](std::uint64_t key, std::int64_t) { ++counts[(key >> next) & (kBins - 1)]; });
  const std::vector<std::int64_t> own = counts;
  sum_(counts);
  shift_ = next;
  if (rank == 0) return 0;
  for (std::size_t digit = 0; digit < counts.size(); ++digit) {
    if (counts[digit] >= rank) {
      prefix_ |= static_cast<std::uint64_t>(digit) << shift_;
      own_ = own[digit];
      return rank;
    }
    rank -= counts[digit];
  }
  throw LogicError("mask expansion: fewer tied weights than their rank");
}

Cut SliceSelector::select(std::int64_t rank) {
  if (order_.keys_are_equal()) {
    shift_ = 0;
  } else {
    for (int digit = 0; digit < kDigits; ++digit) rank = choose_digit(rank);
  }
  std::vector<std::int64_t> equal(static_cast<std::size_t>(place_.owners), 0);
  auto& own = equal[static_cast<std::size_t>(place_.owner)];
  if (rank > 0) for_each_candidate([&](std::uint64_t, std::int64_t) { ++own; });
  sum_(equal);
  const auto before = std::accumulate(equal.begin(), equal.begin() + place_.owner, std::int64_t{0});
  std::int64_t left = rank - before;
  if (left <= 0) return {prefix_, -1};
  if (left >= own) return {prefix_, std::numeric_limits<std::int64_t>::max()};
  std::int64_t found = -1;
  for_each_candidate([&](std::uint64_t, std::int64_t index) {
    if (left > 0 && --left == 0) found = index;
  });
  return {prefix_, found};
}

}  // namespace fedspallm::aggregate
