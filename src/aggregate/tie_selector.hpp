// SPDX-License-Identifier: Apache-2.0
// Purpose: which of the tied weights is the last one to go: among those gathered in a window of keys while
// averaging, or, where that window does not hold it, digit by digit of the keys, by histograms, until few
// enough weights share the digits found. No list of all candidates, no sort. Non-goals: levels of votes.
#pragma once

#include "level_guess.hpp"
#include "tie_order.hpp"
#include <bit>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace fedspallm {
class ThreadPool;
}

namespace fedspallm::aggregate {

/// Tied weights go whose (key, index) is at most this.
struct Cut {
  std::uint64_t key = 0;
  std::int64_t index = -1;
};

using TiedWeight = std::pair<std::uint64_t, std::int64_t>;  // key, index

/// What one worker saw of the tied weights, tile after tile.
class TieGatherer {
 public:
  TieGatherer() = default;
  /// @param limit  most weights to hold on to; beyond it the window is given up
  TieGatherer(KeyWindow window, std::size_t limit) : window_(window), limit_(limit) {}

  void add(const TieOrder& order, std::int64_t tile, std::uint64_t tied) {
    if (tied == 0 || window_.empty()) return;
    order.keys(tile, keys_);
    const KeyMasks masks = order.compare(keys_, window_.low, window_.high);
    below_ += std::popcount(tied & masks.below);
    if (gathered_.size() > limit_) return;
    for (std::uint64_t word = tied & masks.inside; word != 0; word &= word - 1) {
      const auto lane = static_cast<std::size_t>(std::countr_zero(word));
      gathered_.emplace_back(keys_[lane], tile * 64 + static_cast<std::int64_t>(lane));
    }
  }
  void add(const TieGatherer& other) {
    below_ += other.below_;
    gave_up_ = gave_up_ || other.gave_up();
    gathered_.insert(gathered_.end(), other.gathered_.begin(), other.gathered_.end());
  }

  /// The cut of rank `rank` if the window held it; reorders what was gathered.
  [[nodiscard]] bool find(std::int64_t rank, Cut& cut);

 private:
  [[nodiscard]] bool gave_up() const { return gave_up_ || gathered_.size() > limit_; }

  KeyWindow window_;
  std::size_t limit_ = 0;
  std::int64_t below_ = 0;
  bool gave_up_ = false;
  std::vector<TiedWeight> gathered_;
  TileKeys keys_{};
};

/// The `rank`-th smallest (key, index) among the weights under the set bits of `tied`.
/// @pre 1 <= rank <= number of set bits
[[nodiscard]] Cut select_tied(const TieOrder& order, std::span<const std::uint64_t> tied, std::int64_t rank,
                              ThreadPool* pool);

/// Bits of the tied weights of `tile` that go.
[[nodiscard]] inline std::uint64_t gone_of(const TieOrder& order, std::int64_t tile, std::uint64_t tied,
                                           const Cut& cut, TileKeys& scratch) {
  order.keys(tile, scratch);
  const KeyMasks masks = order.compare(scratch, cut.key, cut.key);
  const std::int64_t last = cut.index - tile * 64;  // lane of the last one to go among those equal to the cut
  const std::uint64_t up_to_index = last >= 63 ? ~std::uint64_t{0}
                                    : last < 0 ? 0
                                               : (std::uint64_t{2} << last) - 1;
  return tied & (masks.below | (masks.inside & up_to_index));
}

}  // namespace fedspallm::aggregate
