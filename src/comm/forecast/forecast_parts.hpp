// SPDX-License-Identifier: Apache-2.0
// Purpose: what the forecasts of the topologies share (cost_model.cpp, owners_forecast.cpp,
// nodes_forecast.cpp, topology_choice.cpp). Formulas stand in exchange.hpp.
#pragma once

#include "../plan_index.hpp"
#include <cstdint>
#include <map>

namespace fedspallm::comm {

/// Number of the unit's clients on each rank that has some.
[[nodiscard]] inline std::map<int, std::int64_t> clients_by_rank(const ExchangePlan& plan,
                                                                 const PlannedUnit& unit) {
  std::map<int, std::int64_t> clients;
  for (const std::uint32_t client : unit.clients) ++clients[plan.rank_of_client[client]];
  return clients;
}

/// Bytes that `rank` sends in the topology `nodes`.
[[nodiscard]] std::int64_t forecast_nodes(const PlanIndex& index, const ExchangeOptions& options, int rank,
                                          int ranks);
/// Bytes that `rank` sends in the topology `owners`.
[[nodiscard]] std::int64_t forecast_owners(const PlanIndex& index, const ExchangeOptions& options, int rank,
                                           int ranks);

}  // namespace fedspallm::comm
