// SPDX-License-Identifier: Apache-2.0
// Purpose: what rank 0 does with complete merges: finish them, write each block to the run file and the
// output model, and report. Holds the block in work and nothing of other blocks. Runs on the exchange's merge
// thread.
#pragma once

#include "fedspallm/comm/exchange.hpp"
#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/store/model_writer.hpp"
#include "fedspallm/store/run_store.hpp"
#include "fedspallm/store/state_store.hpp"

#include <nlohmann/json.hpp>

#include "plan.hpp"
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

namespace fedspallm::app {

/// What is known of a block when it is finished.
struct BlockSummary {
  std::uint32_t round = 1;
  std::int64_t block = 0;
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
};

/// A complete merge, finished: what its block file holds.
struct FinishedMatrix {
  store::MatrixRecord record;
  bool above_target = false;  // as in aggregate::MergedMatrix
};
[[nodiscard]] FinishedMatrix finish_matrix(const comm::CompletedUnit& unit, const comm::PlannedUnit& planned,
                                           const aggregate::MergeRules& rules);

class RootMerger {
 public:
  /// @param writer  null when nothing is merged (aggregation = "none"): no unit is then ever complete
  struct Hooks {
    std::function<void()> before_block;  // before a block is written: what must be on disk earlier
    std::function<void(const BlockSummary&)> after_block;
  };
  /// @param coverage_required  a block whose clients were all dropped is an error, else it stays as it is
  RootMerger(const model::ModelDirectory& model, store::BlockStore& store, store::ModelWriter* writer,
             bool coverage_required, Hooks hooks);

  /// Writes the blocks before `start` that an earlier process merged into the output model.
  void replay(store::Position start, const std::function<void(const store::BlockRecord&)>& on_record);

  /// Starts a round; `plan` must live until its last unit is complete.
  void begin_round(const RoundPlan& plan);
  /// Exchange::OnCompleted. @throws CheckFailed when a block comes out otherwise than it is on disk
  void complete(const comm::CompletedUnit& unit);
  /// Records as dense the blocks that nobody ever pruned, so that the run file names every block.
  void record_dense_blocks();
  /// Exchange::Provider: the newest merged block of earlier rounds, empty when nobody has pruned it. Any
  /// thread.
  [[nodiscard]] std::vector<std::byte> provide(std::uint32_t block) const;

 private:
  void add_merged(const comm::CompletedUnit& unit, const comm::PlannedUnit& planned);
  void add_uncovered(const comm::PlannedUnit& planned);
  void finish_block();
  /// The newest round in which `block` was written and that lies before `position`; 0 = none.
  [[nodiscard]] std::uint32_t newest_round_before(std::uint32_t block, store::Position position) const;
  [[nodiscard]] bool lacks_clients_of(const store::BlockRecord& before) const;
  /// Whether an earlier process wrote the same block; false when there is none or it is damaged.
  [[nodiscard]] bool written_before();

  const model::ModelDirectory& model_;
  store::BlockStore& store_;
  mutable std::mutex store_mutex_;  // complete() and provide() run on different threads
  store::ModelWriter* writer_;
  bool coverage_required_;
  Hooks hooks_;
  const RoundPlan* plan_ = nullptr;
  store::BlockRecord record_;
  BlockSummary summary_;
};

}  // namespace fedspallm::app
