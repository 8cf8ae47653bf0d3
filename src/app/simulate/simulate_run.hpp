// SPDX-License-Identifier: Apache-2.0
// Purpose: a round's exchange run for real, but for its updates, which are made up when they are due (owners:
// slice by slice): what is sent, merged, finished and written, how long each takes and how much memory.
// Non-goals: who takes part (simulate_clock.hpp), what it means for other sizes (simulate_forecast.hpp).
#pragma once

#include "fedspallm/comm/communicator.hpp"

#include "../plan.hpp"
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

namespace fedspallm::app {

struct SimulatedExchange {
  const config::Config& config;
  const RoundPlan& plan;
  comm::ExchangeOptions options;
  std::map<std::uint32_t, comm::Dropped> dropped = {};  // by client
  std::filesystem::path folder = {};                    // of block files; "" = none are written
};

/// Of one rank; digest, finishing and writing of the root alone.
struct SimulatedResult {
  double seconds = 0;  // from the first submitted update to the end of the exchange
  double making = 0;   // of it, in making up updates
  /// Of that, what the root's wire and merge waited for: what rank 0 made itself on its merging thread; with
  /// owners, who add equal shares, what the rank made that made most, for it ends last.
  double making_in_the_way = 0;
  double adding = 0;  // where it is merged: the root, or (owners) every rank, finishing included
  double finishing = 0;
  double writing = 0;
  double waiting = 0;  // of the client thread, for room in its window
  std::int64_t bytes_sent = 0;
  std::int64_t bytes_forecast = 0;
  std::int64_t peak_merge_bytes = 0;
  std::string digest;  // of all merged matrices and votes, in plan order; root
  /// What is left when making updates up is taken out: the root's wire and merge.
  [[nodiscard]] double merge_and_wire() const { return seconds - making_in_the_way; }
};

/// Collective. @throws what an exchange throws; DataError for a block that lost all its clients, where
/// coverage is required
[[nodiscard]] SimulatedResult run_exchange(comm::Communicator& communicator, const SimulatedExchange& what);

/// Leaves only the first `blocks` blocks to be merged.
void keep_blocks(RoundPlan& plan, std::int64_t blocks);

}  // namespace fedspallm::app
