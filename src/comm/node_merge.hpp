// SPDX-License-Identifier: Apache-2.0
// Purpose: one rank's part in the topology `nodes`: the ranks of a node add their own clients' updates
// straight to one merge state in memory that they share (aggregate/shared_merge.hpp), so no update travels;
// when all have, their leader passes the sums on along the chain of leaders. Every rank that was asked to add
// answers, also when it could not, so a chain that was started runs to its end. Communication thread, except
// where said.
//
//   root -> leader  scale      the unit's turn has come: neighbours in the chain, ranks of the node that add
//   leader -> rank  add        once one of the two states is free
//   rank -> leader  added
//
// Non-goals: the chain (chain.hpp), when it starts (coordinator.hpp), the memory (node_memory.hpp).
#pragma once

#include "fedspallm/aggregate/shared_merge.hpp"

#include "chain.hpp"
#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>

namespace fedspallm::comm {

class NodeMerge {
 public:
  /// All updates of a unit that this rank's clients have handed over, once.
  using Take = std::function<OwnUpdates(std::size_t index)>;

  /// @param adder  runs the additions
  NodeMerge(const RankContext& context, Worker& adder, Chain& chain, Take take);
  void on(const ScaleMessage& message);
  void on(const AddMessage& message);
  void on(const AddedMessage& message);

  /// At a leader: begins the next unit where there is room.
  void advance();
  /// Any thread: nobody waits for a stripe any more, which may be a killed process'; sums are good for
  /// nothing then.
  void abort() { aborted_ = true; }

 private:
  /// At a leader: a unit that is being added up.
  struct Adding {
    std::size_t left = 0;  // ranks that have not answered
    bool failed = false;
    std::shared_ptr<CountedMerge> sums;  // holds the state while anybody may add to it
  };
  /// Which states are in use; outlives this, as sums on their way may.
  using Taken = std::array<std::atomic<bool>, NodeMemory::kStates>;

  [[nodiscard]] aggregate::SharedMerge state(std::size_t number, std::size_t index, int q,
                                             int diagonal_q) const;
  void begin(const ScaleMessage& message, std::size_t number);
  [[nodiscard]] bool add(const AddMessage& message, OwnUpdates& own);

  const RankContext& context_;
  Worker& adder_;
  Chain& chain_;
  Take take_;
  int leader_;
  std::atomic<bool> aborted_{false};
  std::shared_ptr<Taken> taken_ = std::make_shared<Taken>();
  std::deque<ScaleMessage> waiting_;      // for a free state
  std::map<std::size_t, Adding> adding_;  // by unit
};

}  // namespace fedspallm::comm
