// SPDX-License-Identifier: Apache-2.0
#include "tie_selector.hpp"

#include "fedspallm/base/error.hpp"

#include "units.hpp"
#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

namespace fedspallm::aggregate {

namespace {

constexpr std::int64_t kLastIndex = std::numeric_limits<std::int64_t>::max();

constexpr int kKeyBits = 63;  // a double's sign bit is 0
constexpr int kDigitBits = 13;
using DigitHistogram = std::vector<std::int64_t>;

class Selector {
 public:
  Selector(const TieOrder& order, std::span<const std::uint64_t> tied, std::int64_t rank, ThreadPool* pool)
      : order_(order),
        tied_(tied),
        rank_(rank),
        pool_(pool),
        gather_limit_(std::max<std::int64_t>(1024, std::ssize(tied) * 4)) {}  // a sixteenth of the weights

  Cut run() {
    if (order_.keys_are_equal()) {
      shift_ = 0;
      return select_by_index();
    }
    while (true) {
      const std::int64_t same = choose_digit(count_digits(std::max(0, shift_ - kDigitBits)));
      if (same == rank_) return {prefix_ | low_bits(), kLastIndex};
      if (same <= gather_limit_) return select_gathered();
      if (shift_ == 0) return select_by_index();
    }
  }

 private:
  /// Calls visit(key, index) for the tied weights of tiles [first, last) whose keys have the prefix.
  template <class Visit>
  void for_each_candidate(std::int64_t first, std::int64_t last, Visit visit) const {
    TileKeys keys;
    for (std::int64_t tile = first; tile < last; ++tile) {
      std::uint64_t word = tied_[static_cast<std::size_t>(tile)];
      if (word == 0) continue;
      order_.keys(tile, keys);
      word &= order_.compare(keys, prefix_, prefix_ | low_bits()).inside;
      for (; word != 0; word &= word - 1) {
        const auto lane = static_cast<std::size_t>(std::countr_zero(word));
        visit(keys[lane], tile * 64 + static_cast<std::int64_t>(lane));
      }
    }
  }

  [[nodiscard]] std::uint64_t low_bits() const { return (std::uint64_t{1} << shift_) - 1; }

  /// Counts of the digit from bit `next` up to shift_, of the keys with the prefix. Then shift_ is `next`.
  DigitHistogram count_digits(int next) {
    const std::uint64_t mask = (std::uint64_t{1} << (shift_ - next)) - 1;
    std::vector<DigitHistogram> parts(workers_of(pool_), DigitHistogram(std::size_t{1} << kDigitBits, 0));
    for_each_unit(
        pool_, std::ssize(tied_), [&](std::int64_t, std::int64_t first, std::int64_t last, int worker) {
          DigitHistogram& histogram = parts[static_cast<std::size_t>(worker)];
          for_each_candidate(first, last,
                             [&](std::uint64_t key, std::int64_t) { ++histogram[(key >> next) & mask]; });
        });
    for (std::size_t part = 1; part < parts.size(); ++part)
      for (std::size_t digit = 0; digit < parts[0].size(); ++digit) parts[0][digit] += parts[part][digit];
    shift_ = next;
    return std::move(parts[0]);
  }

  /// Appends to the prefix the digit that holds the wanted rank, which becomes relative to it. Returns its
  /// count.
  std::int64_t choose_digit(const DigitHistogram& histogram) {
    for (std::size_t digit = 0; digit < histogram.size(); ++digit) {
      if (histogram[digit] >= rank_) {
        prefix_ |= static_cast<std::uint64_t>(digit) << shift_;
        return histogram[digit];
      }
      rank_ -= histogram[digit];
    }
    throw LogicError("mask expansion: fewer tied weights than their rank");
  }

  /// Few weights share the prefix: look at them one by one.
  [[nodiscard]] Cut select_gathered() const {
    std::vector<std::vector<TiedWeight>> parts(static_cast<std::size_t>(units_of(std::ssize(tied_))));
    for_each_unit(
        pool_, std::ssize(tied_), [&](std::int64_t unit, std::int64_t first, std::int64_t last, int) {
          std::vector<TiedWeight>& part = parts[static_cast<std::size_t>(unit)];
          for_each_candidate(first, last,
                             [&](std::uint64_t key, std::int64_t index) { part.emplace_back(key, index); });
        });
    std::vector<TiedWeight> all;
    for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
    const auto chosen = all.begin() + (rank_ - 1);
    std::nth_element(all.begin(), chosen, all.end());
    return {chosen->first, chosen->second};
  }

  /// Many weights have exactly the same key: the rank-th of them in row-major order.
  [[nodiscard]] Cut select_by_index() const {
    std::int64_t left = rank_, found = kLastIndex;
    for (std::int64_t tile = 0; tile < std::ssize(tied_) && left > 0; ++tile)
      for_each_candidate(tile, tile + 1, [&](std::uint64_t, std::int64_t index) {
        if (left > 0 && --left == 0) found = index;
      });
    return {prefix_, found};
  }

  const TieOrder& order_;
  std::span<const std::uint64_t> tied_;
  std::int64_t rank_;
  ThreadPool* pool_;
  std::int64_t gather_limit_;
  int shift_ = kKeyBits;  // bits below it are not chosen yet
  std::uint64_t prefix_ = 0;
};

}  // namespace

bool TieGatherer::find(std::int64_t rank, Cut& cut) {
  const std::int64_t place = rank - below_;
  if (gave_up() || place < 1 || place > std::ssize(gathered_)) return false;
  const auto chosen = gathered_.begin() + (place - 1);
  std::nth_element(gathered_.begin(), chosen, gathered_.end());
  cut = {chosen->first, chosen->second};
  return true;
}

Cut select_tied(const TieOrder& order, std::span<const std::uint64_t> tied, std::int64_t rank,
                ThreadPool* pool) {
  require(rank >= 1, "select_tied: rank >= 1");
  return Selector(order, tied, rank, pool).run();
}

}  // namespace fedspallm::aggregate
