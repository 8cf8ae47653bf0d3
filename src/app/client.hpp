// SPDX-License-Identifier: Apache-2.0
// Purpose: the clients of one rank: each prunes block after block and hands its updates to the exchange and,
// where asked, to its own file. Blocks are the outer loop and clients the inner one, so the rank holds one
// block's weights.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/comm/exchange.hpp"
#include "fedspallm/prune/block_pruner.hpp"
#include "fedspallm/store/run_store.hpp"

#include <nlohmann/json.hpp>

#include "background.hpp"
#include "inputs.hpp"
#include "plan.hpp"
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace fedspallm::app {

class LocalClients {
 public:
  /// @param start  zero of the time line in events
  LocalClients(backend::Backend& backend, const config::Config& config, const Inputs& inputs,
               std::chrono::steady_clock::time_point start);
  ~LocalClients();

  /// One round over all blocks. `exchange` may be null (aggregation = "none").
  /// @param on_block  called after each block with the sum of errors and the seconds it took (progress
  /// without a root)
  void run_round(const RoundPlan& plan, comm::Exchange* exchange,
                 const std::function<void(std::int64_t block, double error)>& on_block);
  /// Writes the linking files of clients/NAME.h5.
  void finish(const store::Provenance& provenance);

  /// Time line and statistics, one JSON object each (metrics.jsonl).
  [[nodiscard]] std::vector<nlohmann::json>& events() { return events_; }
  /// Seconds per phase, summed over the rank's clients.
  [[nodiscard]] const prune::PhaseSeconds& seconds() const { return seconds_; }

 private:
  struct Client;
  /// Weights from which a client starts block `block` in this round, and what was dropped before.
  struct Base {
    store::BlockRecord record;  // empty in round 1
    prune::PreviousMasks previous;
  };
  [[nodiscard]] Base base_of(const RoundPlan& plan, comm::Exchange* exchange, std::int64_t block);
  [[nodiscard]] model::BlockWeights load(const Base& base, std::int64_t block);
  double prune_block(const RoundPlan& plan, comm::Exchange* exchange, const Base& base, Client& client,
                     std::int64_t block);
  void record_event(const RoundPlan& plan, const Client& client, std::int64_t block,
                    const prune::PhaseSeconds& seconds, double begin);
  [[nodiscard]] double now() const;

  backend::Backend& backend_;
  const config::Config& config_;
  const Inputs& inputs_;
  std::chrono::steady_clock::time_point start_;
  std::unique_ptr<prune::Workspace> workspace_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<nlohmann::json> events_;
  prune::PhaseSeconds seconds_;
  Background writer_;
};

}  // namespace fedspallm::app
