// SPDX-License-Identifier: Apache-2.0
// Mask expansion inside the groups of an N:M pattern.
#include "fedspallm/base/error.hpp"

#include "expansion.hpp"
#include "tie_keys.hpp"
#include "units.hpp"
#include <algorithm>
#include <tuple>
#include <vector>

namespace fedspallm::aggregate {

namespace {

/// Reads the keys of one tile after the other while indices grow.
class KeyReader {
 public:
  explicit KeyReader(const DenseMerge& merge) : merge_(merge) {}
  std::uint64_t key(std::int64_t index) {
    if (index / 64 != tile_) {
      tile_ = index / 64;
      tie_keys(merge_, tile_, keys_);
    }
    return keys_[static_cast<std::size_t>(index % 64)];
  }

 private:
  const DenseMerge& merge_;
  std::int64_t tile_ = -1;
  TileKeys keys_{};
};

/// One kept weight of a group; the order of the tuple is the order in which weights go.
struct Candidate {
  std::uint32_t kept_by;  // clients - votes: most votes first
  std::uint64_t key;
  std::int64_t index;
  [[nodiscard]] bool goes_before(const Candidate& other) const {
    return std::tie(kept_by, key, index) < std::tie(other.kept_by, other.key, other.index);
  }
};

/// The groups in [first, last) weights. Groups are few weights, so the next to go is looked for anew each
/// time.
class GroupWalker {
 public:
  GroupWalker(const DenseMerge& merge, std::int64_t keep, std::int64_t group)
      : merge_(merge), keys_(merge), keep_(keep), group_(group) {}

  GroupExpansion run(std::int64_t first, std::int64_t last) {
    for (std::int64_t start = first; start < last; start += group_) {
      collect(start);
      const std::int64_t kept = std::ssize(candidates_);
      result_.above_target = result_.above_target || kept < keep_;
      for (std::int64_t left = kept; left > keep_; --left) drop_next();
    }
    return result_;
  }

 private:
  void collect(std::int64_t start) {
    candidates_.clear();
    for (std::int64_t index = start; index < start + group_; ++index) {
      const std::uint64_t word = merge_.words[static_cast<std::size_t>(index / 64)];
      if (((word >> (index % 64)) & 1U) == 0) continue;
      const std::uint32_t votes = merge_.votes[static_cast<std::size_t>(index)];
      candidates_.push_back({merge_.clients - votes, keys_.key(index), index});
    }
  }

  void drop_next() {
    const auto next =
        std::min_element(candidates_.begin(), candidates_.end(),
                         [](const Candidate& a, const Candidate& b) { return a.goes_before(b); });
    merge_.words[static_cast<std::size_t>(next->index / 64)] &= ~(std::uint64_t{1} << (next->index % 64));
    candidates_.erase(next);
    ++result_.expanded;
  }

  const DenseMerge& merge_;
  KeyReader keys_;
  std::int64_t keep_, group_;
  std::vector<Candidate> candidates_;
  GroupExpansion result_;
};

}  // namespace

GroupExpansion expand_groups(const DenseMerge& merge, int keep, int group) {
  require(keep > 0 && keep <= group && merge.cols % group == 0,
          "expand_groups: 0 < N <= M, cols a multiple of M");
  const std::int64_t tiles = std::ssize(merge.words), size = merge.size();
  // Units of a multiple of `group` tiles: then no group, and no mask word, belongs to two units.
  const std::int64_t per_unit = units_of(kUnit, group) * group;
  std::vector<GroupExpansion> parts(static_cast<std::size_t>(units_of(tiles, per_unit)));
  for_each_unit(
      merge.pool, tiles,
      [&](std::int64_t unit, std::int64_t first, std::int64_t last, int) {
        parts[static_cast<std::size_t>(unit)] =
            GroupWalker(merge, keep, group).run(first * 64, std::min(size, last * 64));
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
