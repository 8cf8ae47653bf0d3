// SPDX-License-Identifier: Apache-2.0
// Purpose: topology `nodes`: which ranks share a node and who leads it, and the memory that they share, an
// MPI window. Non-goal: what is done in it (exchange.hpp).
#pragma once

#include "fedspallm/comm/communicator.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::comm {

/// By rank, the rank that leads its node: the lowest rank of its host. Where FEDSPALLM_RANKS_PER_NODE is k,
/// every k ranks that follow each other are taken for a node (tests of several nodes on one host; k ranks
/// must really share memory). @throws ConfigError when it is no number from 1 on
[[nodiscard]] std::vector<int> node_leaders(const Communicator& communicator,
                                            const std::function<const char*(const char*)>& getenv);
/// Nodes of so many ranks each, the last one perhaps of fewer. @pre both >= 1
[[nodiscard]] std::vector<int> even_nodes(int ranks, int ranks_per_node);
/// Whether some node has more than one rank.
[[nodiscard]] bool any_shared(const std::vector<int>& leaders);

/// Why this host cannot give so many bytes of shared memory, with what to do; nothing when it can, as far as
/// can be known beforehand. MPI itself cannot be asked: where the leader fails, Open MPI leaves the other
/// ranks waiting for it.
[[nodiscard]] std::optional<std::string> shared_memory_lacks(
    std::int64_t bytes, const std::function<const char*(const char*)>& getenv);

/// This rank's sight of what its node shares: room for two merge states, one being added to, one travelling.
class NodeMemory {
 public:
  static constexpr int kStates = 2;

  /// Collective over all ranks. All of the memory is there when it returns.
  /// @param leaders  as node_leaders() says; the same on all ranks
  /// @param state_bytes  of one state, >= 0
  /// @throws ResourceError on every rank alike, naming the hosts that lack it
  NodeMemory(Communicator& communicator, const std::vector<int>& leaders, std::int64_t state_bytes);
  /// Collective over the node's ranks; but while an exception passes by, others may not come, and the window
  /// is left to the end of MPI. After every exchange that uses it.
  ~NodeMemory();
  NodeMemory(const NodeMemory&) = delete;
  NodeMemory& operator=(const NodeMemory&) = delete;

  [[nodiscard]] std::int64_t state_bytes() const { return state_bytes_; }
  /// One of the states, aligned for aggregate::SharedMerge. @pre 0 <= number < kStates
  [[nodiscard]] std::span<std::byte> state(int number) const;
  /// What MPI asks for between one rank's stores and another one's loads, beside a message. From the thread
  /// that makes MPI calls.
  void sync() const;

 private:
  struct Window;
  std::int64_t state_bytes_;
  std::unique_ptr<Window> window_;
};

}  // namespace fedspallm::comm
