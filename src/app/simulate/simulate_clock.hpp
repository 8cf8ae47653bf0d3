// SPDX-License-Identifier: Apache-2.0
// Purpose: one round in virtual time: every client has a machine of its own, computes block after block, and
// the merge of a block begins when all who are left have announced it. Nothing sleeps: arrivals are processed
// in the order of their times. Decides who is dropped, and when, for the exchange that is then really run.
// Non-goals: real time, contents.
//
// Clients begin block b when they are done with b - 1 and when block b - 5 is merged (the exchange's window).
// A client that leaves is known to have left when it would have begun. With a deadline d, clients are late
// that have not announced a block d seconds after the first announcement and the merge of the block before;
// they are dropped from that block on. A merge takes what the cost model says, each client being a rank.
#pragma once

#include "fedspallm/comm/exchange.hpp"

#include "../plan.hpp"
#include "simulate_laws.hpp"
#include "simulate_model.hpp"
#include <functional>
#include <vector>

namespace fedspallm::app {

struct ClockOptions {
  BlockWork work;
  double deadline = 0;  // seconds; 0 = none
  /// Seconds to bring a block of so many clients together.
  std::function<double(std::int64_t block, std::int64_t clients)> merge_seconds;
};

struct VirtualRound {
  std::vector<double> merged;           // per block: when it was merged
  std::vector<std::int64_t> clients;    // per block: that were merged
  std::vector<comm::Dropped> dropped;   // by client
  std::vector<std::int64_t> uncovered;  // blocks that lost all their clients
  double compute_seconds = 0;           // of the client that computes longest, all its blocks
  double merge_seconds = 0;             // sum over blocks
  [[nodiscard]] double seconds() const { return merged.empty() ? 0 : merged.back(); }
};

/// @pre one row of `drawn` per client, one entry per block
[[nodiscard]] VirtualRound run_clock(const std::vector<std::vector<bool>>& drawn, const ClientLaws& laws,
                                     const ClockOptions& options);

}  // namespace fedspallm::app
