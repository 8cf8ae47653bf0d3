// SPDX-License-Identifier: Apache-2.0
#include "expansion.hpp"

#include "fedspallm/base/error.hpp"

#include "tie_keys.hpp"
#include "units.hpp"
#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

namespace fedspallm::aggregate {

namespace {

constexpr int kDigitBits = 16;
constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;

/// The last weight to go: all with more votes than `level` and, at the level, all up to (key, index).
struct Cut {
  std::uint32_t level = 0;
  std::uint64_t key = 0;
  std::int64_t index = 0;
};

std::int64_t tiles_of(const DenseMerge& merge) {
  return std::ssize(merge.words);
}

/// Bit i = weight i of the tile has `level` votes (`kMore`: more than that) and is kept.
template <bool kMore>
std::uint64_t voted(const DenseMerge& merge, std::int64_t tile, std::uint32_t level) {
  const std::uint32_t* votes = merge.votes.data() + tile * 64;
  std::uint64_t word = 0;
  for (unsigned i = 0; i < 64; ++i)
    word |= static_cast<std::uint64_t>(kMore ? votes[i] > level : votes[i] == level) << i;
  return word & merge.words[static_cast<std::size_t>(tile)];
}

/// Calls visit(key, index) for the weights of tiles [first, last) at the level.
template <class Visit>
void for_each_tied(const DenseMerge& merge, std::uint32_t level, std::int64_t first, std::int64_t last,
                   Visit visit) {
  TileKeys keys;
  for (std::int64_t tile = first; tile < last; ++tile) {
    std::uint64_t word = voted<false>(merge, tile, level);
    if (word == 0) continue;
    tie_keys(merge, tile, keys);
    for (; word != 0; word &= word - 1) {
      const auto lane = static_cast<std::size_t>(std::countr_zero(word));
      visit(keys[lane], tile * 64 + static_cast<std::int64_t>(lane));
    }
  }
}

/// Finds the `rank`-th smallest (key, index) among the tied weights, rank from 1: digit after digit of the
/// key by histograms, until few enough share the digits found. No list of all candidates, no sort.
class TieSelector {
 public:
  TieSelector(const DenseMerge& merge, std::uint32_t level, std::int64_t rank)
      : merge_(merge),
        level_(level),
        rank_(rank),
        gather_limit_(std::max<std::int64_t>(4096, merge.size() / 64)) {}

  Cut run() {
    for (shift_ = 64 - kDigitBits; shift_ >= 0; shift_ -= kDigitBits) {
      const std::int64_t same = narrow_down();
      if (same == rank_) return cut(prefix_ | low_bits(), std::numeric_limits<std::int64_t>::max());
      if (same <= gather_limit_) return select_gathered();
    }
    return select_by_index();
  }

 private:
  [[nodiscard]] std::uint64_t low_bits() const { return (std::uint64_t{1} << shift_) - 1; }
  [[nodiscard]] bool has_prefix(std::uint64_t key) const {
    const int known = shift_ + kDigitBits;
    return known >= 64 || (key >> known) == (prefix_ >> known);
  }
  [[nodiscard]] Cut cut(std::uint64_t key, std::int64_t index) const { return {level_, key, index}; }

  /// Fixes the next digit of the prefix and makes rank_ relative to it. Returns how many weights share the
  /// prefix.
  std::int64_t narrow_down() {
    std::vector<std::vector<std::int64_t>> histograms(workers_of(merge_.pool),
                                                      std::vector<std::int64_t>(kDigits, 0));
    for_each_unit(merge_.pool, tiles_of(merge_),
                  [&](std::int64_t, std::int64_t first, std::int64_t last, int worker) {
                    std::vector<std::int64_t>& histogram = histograms[static_cast<std::size_t>(worker)];
                    for_each_tied(merge_, level_, first, last, [&](std::uint64_t key, std::int64_t) {
                      if (has_prefix(key)) ++histogram[(key >> shift_) & (kDigits - 1)];
                    });
                  });
    for (std::size_t digit = 0; digit < kDigits; ++digit) {
      std::int64_t count = 0;
      for (const auto& histogram : histograms) count += histogram[digit];
      if (count >= rank_) {
        prefix_ |= static_cast<std::uint64_t>(digit) << shift_;
        return count;
      }
      rank_ -= count;
    }
    throw LogicError("mask expansion: fewer tied weights than the histogram of votes says");
  }

  /// Few weights share the digits found (those above shift_ and the one at it): look at them one by one.
  Cut select_gathered() {
    using Candidate = std::pair<std::uint64_t, std::int64_t>;
    std::vector<std::vector<Candidate>> parts(static_cast<std::size_t>(units_of(tiles_of(merge_))));
    for_each_unit(merge_.pool, tiles_of(merge_),
                  [&](std::int64_t unit, std::int64_t first, std::int64_t last, int) {
                    for_each_tied(merge_, level_, first, last, [&](std::uint64_t key, std::int64_t index) {
                      if ((key >> shift_) == (prefix_ >> shift_))
                        parts[static_cast<std::size_t>(unit)].emplace_back(key, index);
                    });
                  });
    std::vector<Candidate> all;
    for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
    const auto chosen = all.begin() + (rank_ - 1);
    std::nth_element(all.begin(), chosen, all.end());
    return cut(chosen->first, chosen->second);
  }

  /// Many weights have exactly the same key: the rank-th of them in row-major order.
  Cut select_by_index() {
    std::int64_t left = rank_, found = -1;
    for (std::int64_t tile = 0; tile < tiles_of(merge_) && left > 0; ++tile)
      for_each_tied(merge_, level_, tile, tile + 1, [&](std::uint64_t key, std::int64_t index) {
        if (key == prefix_ && left > 0 && --left == 0) found = index;
      });
    return cut(prefix_, found);
  }

  const DenseMerge& merge_;
  std::uint32_t level_;
  std::int64_t rank_;
  std::int64_t gather_limit_;
  int shift_ = 0;
  std::uint64_t prefix_ = 0;
};

/// The level of votes down to which weights go, most votes first.
Cut find_cut(const DenseMerge& merge, std::span<const std::int64_t> histogram, std::int64_t count) {
  std::uint32_t level = merge.clients;
  while (level > 0 && count > 0) {
    --level;
    const std::int64_t here = histogram[level];
    if (here > count) return TieSelector(merge, level, count).run();
    count -= here;
  }
  require(count == 0, "expand_mask: at most as many weights as somebody kept");
  return {level, ~std::uint64_t{0},
          std::numeric_limits<std::int64_t>::max()};  // whole levels go, this one included
}

void apply_cut(const DenseMerge& merge, const Cut& cut) {
  for_each_unit(merge.pool, tiles_of(merge), [&](std::int64_t, std::int64_t first, std::int64_t last, int) {
    for (std::int64_t tile = first; tile < last; ++tile) {
      std::uint64_t gone = voted<true>(merge, tile, cut.level);
      for_each_tied(merge, cut.level, tile, tile + 1, [&](std::uint64_t key, std::int64_t index) {
        if (std::pair(key, index) <= std::pair(cut.key, cut.index)) gone |= std::uint64_t{1} << (index % 64);
      });
      merge.words[static_cast<std::size_t>(tile)] &= ~gone;
    }
  });
}

}  // namespace

void expand_mask(const DenseMerge& merge, std::span<const std::int64_t> histogram, std::int64_t count) {
  require(count >= 0, "expand_mask: count >= 0");
  if (count == 0) return;
  apply_cut(merge, find_cut(merge, histogram, count));
}

}  // namespace fedspallm::aggregate
