// SPDX-License-Identifier: Apache-2.0
// Purpose: mask expansion inside the groups of an N:M pattern.
#pragma once

#include "tie_order.hpp"
#include <cstdint>
#include <span>

namespace fedspallm {
class ThreadPool;
}

namespace fedspallm::aggregate {

struct GroupExpansion {
  std::int64_t expanded = 0;
  bool above_target = false;  // some group has more common zeros than its M - N
};

/// In each group of `group` consecutive weights, clears the mask bits of kept ones, most votes first, then in
/// the order of ties, until only `keep` are kept.
/// @pre 0 < keep <= group, size a multiple of group, words: mask of the weights that somebody kept
[[nodiscard]] GroupExpansion expand_groups(std::span<const Tile> tiles, const TieOrder& order,
                                           std::int64_t size, int keep, int group,
                                           std::span<std::uint64_t> words, ThreadPool* pool);

}  // namespace fedspallm::aggregate
