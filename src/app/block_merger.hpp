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
#include <cstdint>
#include <optional>
#include <string>

namespace fedspallm::app {

/// What is known of a block when it is finished.
struct BlockSummary {
  std::uint32_t round = 1;
  std::int64_t block = 0;
  int rank = 0;              // that wrote it
  std::int64_t clients = 0;  // that pruned it
  std::int64_t weights = 0;
  std::int64_t dropped = 0;
  std::int64_t expanded = 0;
  double error = 0;       // mean over clients of the sum of squared scaled errors
  int damping_steps = 0;  // largest of any client
  bool above_target = false;
  bool recomputed = false;  // it was on disk already, equal
  double merge_seconds = 0;
  double write_seconds = 0;
  friend bool operator==(const BlockSummary&, const BlockSummary&) = default;
};

/// What the root is told of a block that its writer is done with.
struct WrittenBlock {
  BlockSummary summary;
  std::string entry;      // for store::BlockStore::list_block; "" = no new file
  std::string uncovered;  // name of a matrix that none of its clients delivered; "" = there is none
};
/// As it travels to the root, and back. @throws DataError for text that is none
[[nodiscard]] std::string to_text(const WrittenBlock& block);
[[nodiscard]] WrittenBlock written_block_from_text(const std::string& text);

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
