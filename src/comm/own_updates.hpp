// SPDX-License-Identifier: Apache-2.0
// Purpose: one rank's updates of a unit on their way into a merge: those that are here, and clients whose
// updates are made when they are due, a few at a time. Non-goals: what travels (member.hpp), the merge.
#pragma once

#include "rank_context.hpp"
#include <vector>

namespace fedspallm::comm {

/// Updates that are made before they are added together in one pass over the tiles.
constexpr std::size_t kMadeAtOnce = 3;

struct OwnUpdates {
  std::vector<wire::MatrixUpdate> ready;
  std::vector<UpdateSummary> later;
  MakeUpdate make;
  [[nodiscard]] std::size_t size() const { return ready.size() + later.size(); }
};

/// Makes what was summarized. @throws LogicError when `make` gives something else
[[nodiscard]] wire::MatrixUpdate make_summarized(const RankContext& context, std::size_t index,
                                                 const UpdateSummary& said, const MakeUpdate& make);

/// Calls `add` with some updates after the other until all were given or it returns false; frees them on the
/// way. Time in `make` counts as making, not as merging.
void add_in_passes(const RankContext& context, std::size_t index, OwnUpdates& own,
                   const std::function<bool(std::span<const wire::MatrixUpdate>)>& add);

}  // namespace fedspallm::comm
