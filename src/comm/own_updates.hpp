// SPDX-License-Identifier: Apache-2.0
// Purpose: one rank's updates of a unit on their way into a merge: those that are here, and clients whose
// updates are made when they are due, a few at a time. Non-goals: what travels (member.hpp), the merge.
#pragma once

#include "rank_context.hpp"
#include <mutex>
#include <vector>

namespace fedspallm::comm {

/// Updates that are made before they are added together in one pass over the tiles.
constexpr std::size_t kMadeAtOnce = 3;

struct OwnUpdates {
  std::vector<wire::MatrixUpdate> ready;
  std::vector<UpdateSummary> later;
  MakeUpdate make;
  // Topology owners:
  MakeSlices slices;
  std::vector<std::int64_t> kept;  // of later[0]'s slices, in the order of owners, then of later[1]'s, ...
  [[nodiscard]] std::int64_t kept_of(std::size_t position, int owner) const {
    return kept[position * (kept.size() / later.size()) + static_cast<std::size_t>(owner)];
  }
  [[nodiscard]] std::size_t size() const { return ready.size() + later.size(); }
};

/// Makes what was summarized. @throws LogicError when `make` gives something else
[[nodiscard]] wire::MatrixUpdate make_summarized(const RankContext& context, std::size_t index,
                                                 const UpdateSummary& said, const MakeUpdate& make);

/// Fills `kept`, and `slices` where nothing makes slices alone. @param mutex  under which client and worker
/// call `make`; it outlives `later` @throws LogicError when the slices of a client do not add up to its
/// summary
void count_slices(const RankContext& context, std::size_t index, OwnUpdates& later, std::mutex& mutex);
/// The slice for `owner` of later[position]. @throws LogicError when something else is made than was
/// summarized
[[nodiscard]] wire::PackedMatrix make_slice(const RankContext& context, std::size_t index,
                                            const OwnUpdates& later, std::size_t position, int owner);
[[nodiscard]] std::vector<float> make_diagonal(const RankContext& context, std::size_t index,
                                               const OwnUpdates& later, std::size_t position);

/// Calls `add` with some updates after the other until all were given or it returns false; frees them on the
/// way. Time in `make` counts as making, not as merging.
void add_in_passes(const RankContext& context, std::size_t index, OwnUpdates& own,
                   const std::function<bool(std::span<const wire::MatrixUpdate>)>& add);

}  // namespace fedspallm::comm
