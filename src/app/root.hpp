// SPDX-License-Identifier: Apache-2.0
// Purpose: what rank 0 does with merged blocks, whichever rank wrote them: takes their files into the run's
// list, reports them, and hands them to clients of the next round. It knows of blocks what the list and the
// files say. Non-goals: finishing and writing blocks (block_merger.hpp), the output model (prune_save.cpp).
#pragma once

#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/store/run_store.hpp"
#include "fedspallm/store/state_store.hpp"

#include "block_merger.hpp"
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace fedspallm::app {

class RootLedger {
 public:
  struct Hooks {
    std::function<void()> before_block;  // before a block counts: what must be on disk earlier
    std::function<void(const BlockSummary&)> after_block;
  };
  /// @param coverage_required  a block whose clients were all dropped is an error, else it stays as it is
  RootLedger(store::BlockStore& store, bool coverage_required, Hooks hooks);

  void begin_round(std::uint32_t round);
  /// From here on the block counts. On the thread on which the exchange tells of it, one block at a time.
  /// @throws DataError where `coverage_required` is not met; what the hooks throw
  void take(const WrittenBlock& block);
  /// Records as dense the blocks that nobody ever pruned, so that the run file names every block.
  void record_dense_blocks(const model::ModelDirectory& model);
  /// For store::BlockFiles on any rank: what counts now. Any thread.
  [[nodiscard]] std::string list() const;
  /// Exchange::Provider: the newest merged block of earlier rounds, empty when nobody has pruned it. Any
  /// thread.
  [[nodiscard]] std::vector<std::byte> provide(std::uint32_t block) const;

 private:
  /// The newest round in which `block` was written and that lies before `position`; 0 = none.
  [[nodiscard]] std::uint32_t newest_round_before(std::uint32_t block, store::Position position) const;

  store::BlockStore& store_;
  mutable std::mutex store_mutex_;  // take() and provide() may run on different threads
  bool coverage_required_;
  Hooks hooks_;
  std::uint32_t round_ = 1;
};

}  // namespace fedspallm::app
