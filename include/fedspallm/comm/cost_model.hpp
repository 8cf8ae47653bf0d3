// SPDX-License-Identifier: Apache-2.0
// Purpose: what bringing one matrix of many clients to its merge takes, by formula: the one cost model behind
// `transport = "auto"`, behind the virtual clock of `simulate` and behind its forecasts. Non-goals: measuring
// (bench.hpp, app/simulate), what pruning takes.
#pragma once

#include "fedspallm/comm/exchange.hpp"

#include <cstdint>
#include <span>
#include <string>

namespace fedspallm::comm {

/// Rates of one link and one core. The defaults are those of the slowest usual cluster, for only their ratios
/// matter to the choice of a transport; `simulate` measures its own.
struct CostRates {
  double link_bytes_per_second = 1.2e9;    // 10 Gbit/s Ethernet
  double seconds_per_message = 200e-6;     // a request and its answer between threads that poll every 0.1 ms
  double add_seconds_per_weight = 0.8e-9;  // one core: 0.6 to add (bench transport), 0.2 to decode
  double add_tiles_seconds_per_byte = 1e-10;  // one core: tiles at 9 to 10 GB/s (bench transport)
  double finish_seconds_per_weight = 4.5e-9;  // one core: averages, votes, mask expansion (simulate)
};

/// What one unit asks of the ranks.
struct UnitLoad {
  std::int64_t weights = 0;
  std::int64_t update_bytes = 0;    // of one client's update as it travels
  std::int64_t sum_bytes = 0;       // of the merge state as it travels: tiles and sums of diag(H)
  std::int64_t clients = 0;         // that deliver it
  std::int64_t remote_clients = 0;  // of them, on ranks other than the root
  std::int64_t most_clients = 0;    // of the rank that has most
  std::int64_t links = 0;           // ranks other than the root that have some
};
[[nodiscard]] UnitLoad unit_load(const ExchangePlan& plan, const PlannedUnit& unit);
/// The load of `clients` spread evenly over `ranks` (on the root, too, unless `root_hosts` is false).
/// @pre clients, ranks >= 1; root_hosts or ranks > 1
[[nodiscard]] UnitLoad even_load(const PlannedUnit& unit, std::int64_t clients, std::int64_t ranks,
                                 bool root_hosts = true);

/// Seconds from the last announcement of a unit to its complete sums at the root; the formulas stand in
/// exchange.hpp beside choose_transport(). @param chunk_bytes  of the reduce pipeline
[[nodiscard]] double gather_seconds(const UnitLoad& load, const CostRates& rates);
[[nodiscard]] double reduce_seconds(const UnitLoad& load, const CostRates& rates,
                                    std::int64_t chunk_bytes = ExchangeOptions().chunk_bytes);

/// What a unit asks besides where each rank owns a share of it.
struct OwnersLoad {
  std::int64_t ranks = 1;
  std::int64_t result_bytes = 0;  // of the whole finished matrix as it travels to its writer
  std::int64_t sums = 0;          // over all ranks
};
/// @pre clients, ranks >= 1
[[nodiscard]] OwnersLoad owners_load(const PlannedUnit& unit, std::int64_t clients, std::int64_t ranks,
                                     const aggregate::MergeRules& rules);
/// The same with owners; the formula stands beside choose_topology().
[[nodiscard]] double owners_seconds(const UnitLoad& load, const OwnersLoad& owners, const CostRates& rates);

/// What a unit asks besides where ranks of a node share one merge state.
struct NodesLoad {
  std::int64_t links = 0;  // nodes other than the root's that have clients
};
/// @param leaders  as ExchangeOptions
[[nodiscard]] NodesLoad nodes_load(const ExchangePlan& plan, const PlannedUnit& unit,
                                   std::span<const int> leaders);
/// The same of an even load, whose clients are on the ranks [0, load.links].
[[nodiscard]] NodesLoad even_nodes_load(const UnitLoad& load, std::span<const int> leaders);
/// The same with nodes; the formula stands beside choose_topology().
[[nodiscard]] double nodes_seconds(const UnitLoad& load, const NodesLoad& nodes, const CostRates& rates,
                                   std::int64_t chunk_bytes = ExchangeOptions().chunk_bytes);

/// Seconds of a unit the way that the options say (topology, transport, leaders, chunk_bytes, rules). @pre
/// not nccl
[[nodiscard]] double merge_seconds(const PlannedUnit& unit, const UnitLoad& load, std::int64_t ranks,
                                   const ExchangeOptions& options, const CostRates& rates);

/// Of `kept` weights of the unit, those among its first `weights`, as forecasts take them: spread evenly.
[[nodiscard]] inline std::int64_t evenly_before(const PlannedUnit& unit, std::int64_t kept,
                                                std::int64_t weights) {
  const std::int64_t whole = unit.rows * unit.cols;
  return whole == 0 ? 0 : weights * kept / whole;  // fits: matrices have less than 2^31 weights
}

/// Bytes that `rank` sends besides forecast_bytes(): to end an exchange in order, and for each of its clients
/// that it drops; with owners the root also names, to each rank and for each unit, the clients that are
/// absent.
[[nodiscard]] std::int64_t closing_bytes(int rank, int ranks);
[[nodiscard]] std::int64_t drop_bytes(const std::string& reason);
[[nodiscard]] std::int64_t absent_bytes(std::int64_t clients);

}  // namespace fedspallm::comm
