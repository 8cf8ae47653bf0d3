// SPDX-License-Identifier: Apache-2.0
// Purpose: what the writer of a block does with its complete merges: finishes them and, with the last one,
// writes the block's file. One per round on each rank that writes (topology root: rank 0; owners: block b on
// rank b mod ranks). Holds the block in work and nothing of other blocks; runs on a thread of the exchange.
// Non-goals: which files count, progress, blocks for the next round (root.hpp).
#pragma once

#include "fedspallm/comm/exchange.hpp"
#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/store/block_files.hpp"

#include "plan.hpp"
#include "written_block.hpp"
#include <cstdint>
#include <optional>
#include <string>

namespace fedspallm::app {

/// Of the record's pruned matrices.
[[nodiscard]] std::int64_t dropped_weights(const store::BlockRecord& record);

/// A complete merge, finished: what its block file holds.
struct FinishedMatrix {
  store::MatrixRecord record;
  bool above_target = false;  // as in aggregate::MergedMatrix
};
[[nodiscard]] FinishedMatrix finish_matrix(const comm::CompletedUnit& unit, const comm::PlannedUnit& planned,
                                           const aggregate::MergeRules& rules);

class BlockMerger {
 public:
  /// @param plan  lives as long as this
  /// @param files  with the list of what earlier rounds, and earlier processes in this round, have written
  BlockMerger(const model::ModelDirectory& model, const RoundPlan& plan, store::BlockFiles files, int rank);

  /// For Exchange::OnCompleted. @return the block, when this was the last of its matrices; its file is then
  /// durable. @throws CheckFailed when it comes out otherwise than it is on disk
  [[nodiscard]] std::optional<WrittenBlock> complete(const comm::CompletedUnit& unit);
  /// In complete(), for block files.
  [[nodiscard]] double writing_seconds() const { return writing_seconds_; }

 private:
  void add_merged(const comm::CompletedUnit& unit, const comm::PlannedUnit& planned);
  void add_uncovered(const comm::PlannedUnit& planned);
  [[nodiscard]] WrittenBlock finish_block();
  [[nodiscard]] bool lacks_clients_of(const store::BlockRecord& before) const;
  [[nodiscard]] bool written_before();

  const model::ModelDirectory& model_;
  const RoundPlan& plan_;
  store::BlockFiles files_;
  int rank_;
  store::BlockRecord record_;
  WrittenBlock written_;
  double writing_seconds_ = 0;
};

}  // namespace fedspallm::app
