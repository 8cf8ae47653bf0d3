// SPDX-License-Identifier: Apache-2.0
// Purpose: from where a killed or stopped run goes on. Merging: the newest position such that every merged
// block before it is on disk and sound. Each client: its own newest saved state that is not after the first
// block it has still to deliver; what it computes on the way there is merged already and not sent. So ranks
// need not wait for each other, nor keep states for the slowest. What is damaged is passed over, said aloud.
// Blocks from there on that are on disk already are computed again and must come out equal (root.hpp).
// Non-goal: whether the directory belongs to this run (identity.hpp).
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/comm/communicator.hpp"
#include "fedspallm/store/run_store.hpp"
#include "fedspallm/store/state_store.hpp"

#include "background.hpp"
#include "identity.hpp"
#include "inputs.hpp"
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace fedspallm::app {

/// Shape of a run: rounds, blocks, and who prunes what ([round - 1][client][block]).
struct RunShape {
  std::uint32_t rounds = 1;
  std::uint32_t blocks = 0;
  std::vector<std::vector<std::vector<bool>>> drawn;
};
[[nodiscard]] RunShape shape_of_run(const config::Config& config, const model::ModelDirectory& model);

/// The position after the last block: nothing is left to prune.
[[nodiscard]] store::Position end_of(const RunShape& shape);
/// (round, blocks) is (round + 1, 0).
[[nodiscard]] store::Position after(const RunShape& shape, store::Position position);

/// Counted over all rounds.
[[nodiscard]] std::int64_t blocks_before(const RunShape& shape, store::Position position);

/// What the search tells meanwhile: it reads gigabytes.
struct Watch {
  std::function<void(const std::string&)> say;  // a line about each damaged file
  std::function<void()> beat = [] {};           // before each file (watchdog)
  std::function<void(const store::BlockRecord&)> see = [](const store::BlockRecord&) {};  // sound merged ones
};

/// What counts as merged.
struct Merged {
  store::Position until;                              // the first position whose block is missing or damaged
  std::map<std::int64_t, std::int64_t> dropped = {};  // by block: weights dropped in its newest record before
};
/// Reads, once, what a process that goes on will need: of each block its newest record, and the one that the
/// round begins with. Of older rounds it looks whether the files are there.
[[nodiscard]] Merged merged_until(const store::BlockFiles& merged, const RunShape& shape,
                                  const std::vector<DroppedClient>& dropped, const Watch& watch);

/// Of one client on its rank: where it could begin.
struct ClientFiles {
  std::uint32_t client = 0;
  const store::StateStore* states = nullptr;
  const store::BlockStore* own = nullptr;  // null unless run.keep_clients
  std::int64_t rows = 0, columns = 0;      // of its hidden states
};

struct Start {
  store::Position merging;               // the first block that is not merged yet
  store::Position first;                 // the earliest of it and of all clients' positions
  std::vector<store::Position> clients;  // of this rank
};
/// Collective; `merging` and `first` come out alike on all ranks.
/// @param merged  at the root: merged_until(), or end_of() when nothing is merged
/// @param mine  this rank's clients, those that were dropped left out from their position on
[[nodiscard]] Start find_start(comm::Communicator& communicator, const RunShape& shape,
                               store::Position merged, const std::vector<ClientFiles>& mine,
                               const std::vector<DroppedClient>& dropped, const Watch& watch);

/// Blocks from one saved state to the next, a power of two, so that saving costs under 2 % of the time.
/// @param save_seconds  of all clients of a rank, @param block_seconds  the rank's work on one block
[[nodiscard]] std::uint32_t blocks_between_states(double save_seconds, double block_seconds);

/// Writes hidden states to `states` without a second copy in memory: the pages are handed to the system on
/// the caller's thread, `publisher` makes them durable and visible.
void save_state(backend::Backend& backend, backend::View hidden, store::StateStore& states,
                store::Position position, Background& publisher);
void load_state(backend::Backend& backend, const store::StateStore& states, store::Position position,
                backend::View hidden);

}  // namespace fedspallm::app
