// SPDX-License-Identifier: Apache-2.0
#include "group_expansion.hpp"

#include "fedspallm/base/error.hpp"

#include "units.hpp"
#include <algorithm>
#include <bit>
#include <tuple>
#include <vector>

namespace fedspallm::aggregate {

namespace {

/// One kept weight of a group; candidates go in this order.
struct Candidate {
  std::uint32_t kept_by;  // by fewer clients = more votes
  std::uint64_t key;
  std::int64_t index;
  [[nodiscard]] bool goes_before(const Candidate& other) const {
    return std::tie(kept_by, key, index) < std::tie(other.kept_by, other.key, other.index);
  }
};

/// The groups of a range of weights. Groups are few weights, so the next one to go is looked for anew each
/// time.
class GroupWalker {
 public:
  GroupWalker(std::span<const Tile> tiles, const TieOrder& order, std::span<std::uint64_t> words, int keep,
              int group)
      : tiles_(tiles), order_(order), words_(words), keep_(keep), group_(group) {}

  GroupExpansion run(std::int64_t first, std::int64_t last) {
    for (std::int64_t start = first; start < last; start += group_) {
      const std::int64_t kept = collect(start);
      result_.above_target = result_.above_target || kept < keep_;
      for (std::int64_t left = kept; left > keep_; --left) drop_next();
    }
    return result_;
  }

 private:
  std::int64_t collect(std::int64_t start) {
    candidates_.clear();
    for (std::int64_t index = start; index < start + group_; ++index) {
      if (index / 64 != tile_) enter_tile(index / 64);
      const auto lane = static_cast<std::size_t>(index % 64);
      if (((word_ >> lane) & 1U) != 0)
        candidates_.push_back({tiles_[static_cast<std::size_t>(tile_)].kept[lane], keys_[lane], index});
    }
    return std::ssize(candidates_);
  }

  void enter_tile(std::int64_t tile) {
    tile_ = tile;
    word_ =
        words_[static_cast<std::size_t>(tile)];  // as it was: a group's own changes come after its collection
    order_.keys(tile, keys_);
  }

  void drop_next() {
    const auto next =
        std::min_element(candidates_.begin(), candidates_.end(),
                         [](const Candidate& a, const Candidate& b) { return a.goes_before(b); });
    words_[static_cast<std::size_t>(next->index / 64)] &= ~(std::uint64_t{1} << (next->index % 64));
    *next = candidates_.back();
    candidates_.pop_back();
    ++result_.expanded;
  }

  std::span<const Tile> tiles_;
  const TieOrder& order_;
  std::span<std::uint64_t> words_;
  std::int64_t keep_, group_;
  std::int64_t tile_ = -1;
  std::uint64_t word_ = 0;
  TileKeys keys_{};
  std::vector<Candidate> candidates_;
  GroupExpansion result_;
};

}  // namespace

GroupExpansion expand_groups(std::span<const Tile> tiles, const TieOrder& order, std::int64_t size, int keep,
                             int group, std::span<std::uint64_t> words, ThreadPool* pool) {
  require(keep > 0 && keep <= group && size % group == 0, "expand_groups: 0 < N <= M, whole groups");
  // Units of a multiple of `group` tiles: then no group, and no mask word, belongs to two units.
  const std::int64_t per_unit = units_of(kUnit, group) * group;
  std::vector<GroupExpansion> parts(static_cast<std::size_t>(units_of(std::ssize(tiles), per_unit)));
  for_each_unit(
      pool, std::ssize(tiles),
      [&](std::int64_t unit, std::int64_t first, std::int64_t last, int) {
        parts[static_cast<std::size_t>(unit)] =
            GroupWalker(tiles, order, words, keep, group).run(first * 64, std::min(size, last * 64));
      },
      per_unit);
  GroupExpansion total;
  for (const GroupExpansion& part : parts) {
    total.expanded += part.expanded;
    total.above_target = total.above_target || part.above_target;
  }
  return total;
}

}  // namespace fedspallm::aggregate
