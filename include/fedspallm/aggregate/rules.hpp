// SPDX-License-Identifier: Apache-2.0
// Purpose: what the root has to know to finish a merge, and which client prunes which block (layer sampling:
// FedSpaLLM, arXiv 2410.14852). Non-goals: merging (merge.hpp), what happens to a block that nobody prunes
// (app/).
#pragma once

#include <cstdint>
#include <vector>

namespace fedspallm::aggregate {

enum class Averaging { l0, mean };
enum class TieRule { score, magnitude, index };

struct MergeRules {
  Averaging averaging = Averaging::l0;
  bool expand = true;
  TieRule tie = TieRule::score;
  double sparsity = 0.5;  // of this round
  int keep = 0;           // N of N:M, 0 = unstructured
  int group = 0;          // M of N:M
};

/// Which client prunes which block (rulings.md 10): result[client][block].
/// Client i gets max(1, round(resources_i * blocks)) blocks; clients in keyed random order take the least
/// covered blocks, ties by keyed random. So no block is drawn by more than one client more than any other
/// block is.
/// @pre 0 < resources_i <= 1, blocks >= 1
[[nodiscard]] std::vector<std::vector<bool>> draw_blocks(const std::vector<double>& resources,
                                                         std::int64_t blocks, std::uint64_t seed,
                                                         std::uint32_t round);

}  // namespace fedspallm::aggregate
