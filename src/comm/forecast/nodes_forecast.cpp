// SPDX-License-Identifier: Apache-2.0
// Seconds and bytes of the topology `nodes`, message by message as node_merge.hpp has them. Formulas stand in
// exchange.hpp beside choose_topology().
#include "fedspallm/comm/cost_model.hpp"

#include "../messages.hpp"
#include "forecast_parts.hpp"
#include <algorithm>
#include <set>

namespace fedspallm::comm {

namespace {

/// Ranks with clients of the unit, by the leader of their node; the root's node is among them.
std::map<int, std::vector<int>> adders_by_leader(const ExchangePlan& plan, const PlannedUnit& unit,
                                                 std::span<const int> leaders) {
  std::map<int, std::vector<int>> adders = {{0, {}}};
  for (const auto& [rank, clients] : clients_by_rank(plan, unit))
    adders[leaders[static_cast<std::size_t>(rank)]].push_back(rank);
  return adders;
}

std::int64_t scale_bytes(std::size_t adders) {
  ScaleMessage message;
  message.adders.resize(adders);
  return message_bytes(message);
}

}  // namespace

NodesLoad nodes_load(const ExchangePlan& plan, const PlannedUnit& unit, std::span<const int> leaders) {
  require(leaders.size() > 0, "nodes_load: a leader for every rank");
  return {.links = std::ssize(adders_by_leader(plan, unit, leaders)) - 1};
}

NodesLoad even_nodes_load(const UnitLoad& load, std::span<const int> leaders) {
  require(load.links < std::ssize(leaders), "even_nodes_load: a leader for every rank");
  const std::set<int> with_clients(leaders.begin(), leaders.begin() + load.links + 1);
  return {.links = std::ssize(with_clients) - 1};
}

double nodes_seconds(const UnitLoad& load, const NodesLoad& nodes, const CostRates& rates,
                     std::int64_t chunk_bytes) {
  UnitLoad between = load;  // what adding takes, and then a chain of leaders
  between.links = nodes.links;
  return rates.seconds_per_message + reduce_seconds(between, rates, chunk_bytes);
}

std::int64_t forecast_nodes(const PlanIndex& index, const ExchangeOptions& options, int rank, int ranks) {
  require(std::ssize(options.leaders) == ranks, "forecast_bytes: nodes: a leader for every rank");
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < index.size(); ++i) {
    const PlannedUnit& unit = index.unit(i);
    const bool ends_block = index.block_of(i + 1) != index.block_of(i);
    if (rank == 0 && ends_block) bytes += (ranks - 1) * message_bytes(DurableMessage());
    const auto own = static_cast<std::int64_t>(index.clients_on(i, rank));
    if (rank != 0 && own > 0) bytes += announce_bytes(own);
    for (const auto& [leader, adders] : adders_by_leader(index.plan(), unit, options.leaders)) {
      const bool adds = std::ranges::find(adders, rank) != adders.end();
      if (rank == 0 && leader != 0) bytes += scale_bytes(adders.size());
      if (rank != leader) {
        if (adds) bytes += message_bytes(AddedMessage());
        continue;
      }
      bytes += (std::ssize(adders) - (adds ? 1 : 0)) * message_bytes(AddMessage());
      if (leader != 0) bytes += merge_bytes(unit);
    }
  }
  return bytes;
}

}  // namespace fedspallm::comm
