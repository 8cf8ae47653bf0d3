// SPDX-License-Identifier: Apache-2.0
// Purpose: the reduce transport: a pipeline of chunks along the ranks that take part in a unit, R-1 -> ... ->
// 0, of which the root tells each its neighbours (topology nodes: along their leaders). Each rank merges its
// own clients first (worker thread), or a node does (node_merge.hpp); it then adds what arrives from above
// chunk by chunk with MPI_Reduce_local and our MPI_Op, and passes the sums on. Once a chain has started it
// always runs to its end, even when an exchange fails, so no message is ever left over. Communication thread
// only. Non-goal: deciding when a chain starts (coordinator.hpp).
#pragma once

#include "mpi_handles.hpp"
#include "own_updates.hpp"
#include <deque>
#include <memory>
#include <vector>

namespace fedspallm::comm {

/// Chunks on their way between two ranks at once: enough that the link never waits for an addition.
constexpr std::size_t kChunksAtOnce = 4;

class Chain {
 public:
  /// At the root: the unit's sums over all ranks; nullptr when merging failed somewhere.
  using OnReduced = std::function<void(std::size_t index, const std::shared_ptr<CountedMerge>& merge)>;

  Chain(const RankContext& context, Worker& worker, OnReduced on_reduced);
  /// The unit's turn has come: `own` are this rank's clients' updates (none on a root without clients).
  void start(const ScaleMessage& message, OwnUpdates own);
  /// The same where its sums are made elsewhere: merged() follows.
  void start(const ScaleMessage& message);
  /// What has to be sent down is there; null where that failed: something goes down all the same, and the
  /// root drops it. It is let go of when nothing of it is under way any more.
  void merged(std::size_t index, const std::shared_ptr<CountedMerge>& merge);
  /// False when nothing could be moved.
  bool advance();
  [[nodiscard]] bool empty() const { return units_.empty(); }

 private:
  struct Unit {
    std::size_t index = 0;
    int upstream = -1, downstream = -1;   // ranks, -1 = none
    std::shared_ptr<CountedMerge> merge;  // once `merged`
    bool merged = false;
    std::size_t tile_chunks = 0, chunks = 0;
    std::size_t posted = 0, added = 0;  // chunks whose receive is posted, that are added up and passed on
  };
  [[nodiscard]] std::span<std::byte> chunk(const Unit& unit, std::size_t number);
  [[nodiscard]] std::size_t chunk_size(const Unit& unit, std::size_t number) const;
  [[nodiscard]] std::shared_ptr<CountedMerge> merge_own(const ScaleMessage& message, OwnUpdates& own) const;
  void make_buffers();
  void post_receives(Unit& unit);
  void add_chunk(const Unit& unit, std::size_t number);
  [[nodiscard]] static bool failed_above(const Unit& unit);
  bool pass_on(Unit& unit);

  const RankContext& context_;
  Worker& worker_;
  OnReduced on_reduced_;
  std::size_t chunk_bytes_;
  std::unique_ptr<TileReduction> reduction_;     // where messages are needed
  std::vector<std::vector<std::byte>> buffers_;  // kChunksAtOnce; of chunk n: n % kChunksAtOnce
  std::vector<bool> arrived_;                    // per buffer
  std::vector<std::byte> failed_;                // passed on where merging failed: such sums are known
  std::size_t sending_ = 0;
  std::deque<Unit> units_;  // in plan order; the first one moves
};

}  // namespace fedspallm::comm
