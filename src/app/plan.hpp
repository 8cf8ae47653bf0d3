// SPDX-License-Identifier: Apache-2.0
// Purpose: what one round will do, computed alike on every rank: who prunes which block, which matrices are
// merged from whom, by which rules. Pure functions of config and architecture.
#pragma once

#include "fedspallm/aggregate/rules.hpp"
#include "fedspallm/comm/exchange.hpp"
#include "fedspallm/config/config.hpp"
#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/prune/methods.hpp"

#include "identity.hpp"
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace fedspallm::app {

struct RoundPlan {
  std::uint32_t round = 1;
  std::int64_t first_block = 0;  // what comes before it was merged by an earlier process
  prune::Settings settings;
  aggregate::MergeRules rules;
  std::vector<std::vector<bool>> drawn;      // [client][block], also of clients that were dropped since
  std::vector<std::int64_t> delivers_until;  // [client]: the block from which on it was dropped, or `blocks`
  comm::ExchangePlan exchange;               // empty units when aggregation = "none"
  std::vector<std::vector<std::size_t>> unit;  // [block][matrix] -> index in exchange.units, or kNoUnit
  std::vector<std::int64_t> uncovered;         // blocks that nobody prunes
};
constexpr std::size_t kNoUnit = static_cast<std::size_t>(-1);

/// Rank of each client: its `rank` key, else index mod ranks. @throws ConfigError when a rank does not exist
[[nodiscard]] std::vector<int> ranks_of_clients(const config::Config& config, int ranks);

/// Dtype of the pruned matrix on the wire, in the run file and in the output.
[[nodiscard]] DType wire_dtype(const config::Config& config, const model::ModelDirectory& model,
                               std::int64_t block, std::size_t matrix);

/// What a plan needs to know of a model: a folder opened for reading has it, and so has a mere description.
struct PlanModel {
  const model::Architecture& architecture;
  /// Dtype of the pruned matrix on the wire.
  std::function<DType(std::int64_t block, std::size_t matrix)> dtype;
};
[[nodiscard]] PlanModel plan_model(const config::Config& config, const model::ModelDirectory& model);

/// Whether updates carry diag(H): only where the score rule will need it.
[[nodiscard]] bool sends_diagonal(const config::Config& config);

/// Which client prunes which block in a round: [client][block].
[[nodiscard]] std::vector<std::vector<bool>> draw_round(const config::Config& config, std::int64_t blocks,
                                                        std::uint32_t round);

/// The round of `start` from its block on, without the clients that were dropped.
/// @throws ConfigError when blocks stay uncovered and coverage is required, or an N:M group does not divide a
/// matrix
[[nodiscard]] RoundPlan plan_round(const config::Config& config, const PlanModel& model,
                                   const std::vector<int>& rank_of_client, store::Position start,
                                   const std::vector<DroppedClient>& dropped = {});
[[nodiscard]] RoundPlan plan_round(const config::Config& config, const model::ModelDirectory& model,
                                   const std::vector<int>& rank_of_client, store::Position start,
                                   const std::vector<DroppedClient>& dropped = {});

}  // namespace fedspallm::app
