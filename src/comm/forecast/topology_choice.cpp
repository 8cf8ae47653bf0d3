// SPDX-License-Identifier: Apache-2.0
// The choice of a topology. Formulas stand in exchange.hpp beside choose_topology().
#include "fedspallm/comm/cost_model.hpp"

#include "../owners/slice_plan.hpp"
#include "forecast_parts.hpp"
#include <algorithm>
#include <bit>

namespace fedspallm::comm {

OwnersLoad owners_load(const PlannedUnit& unit, std::int64_t clients, std::int64_t ranks,
                       const aggregate::MergeRules& rules) {
  require(clients >= 1 && ranks >= 1, "owners_load: clients, ranks >= 1");
  const std::int64_t weights = unit.rows * unit.cols;
  const std::int64_t kept = unit.expected_kept >= 0 ? unit.expected_kept : weights;
  return {.ranks = ranks,
          .result_bytes = result_bytes(unit, weights, kept, clients),
          .sums = std::ssize(aggregate::sums_of_finishing(rules, clients, static_cast<int>(ranks))) +
                  (unit.with_diagonal ? 1 : 0)};
}

double owners_seconds(const UnitLoad& load, const OwnersLoad& owners, const CostRates& rates) {
  const double share = 1 / static_cast<double>(owners.ranks);
  const double add = static_cast<double>(load.weights) * static_cast<double>(load.clients) * share *
                     rates.add_seconds_per_weight;
  if (owners.ranks == 1) return add;
  const double sent =
      static_cast<double>(load.most_clients) * static_cast<double>(load.update_bytes) * (1 - share);
  const double results = static_cast<double>(owners.result_bytes) * (1 - share);
  const auto levels = static_cast<std::int64_t>(std::bit_width(static_cast<std::uint64_t>(owners.ranks - 1)));
  return std::max(sent / rates.link_bytes_per_second, add) + results / rates.link_bytes_per_second +
         static_cast<double>(3 + 2 * levels * owners.sums) * rates.seconds_per_message;
}

TopologyChoice choose_topology(const ExchangePlan& plan, const ExchangeOptions& options,
                               std::optional<Transport> transport, int ranks) {
  TopologyChoice choice;
  if (ranks == 1) {
    choice.reason = "one rank merges alone";
    return choice;
  }
  const bool may_gather = transport != Transport::reduce;
  const bool may_reduce = transport != Transport::gather && options.deadline_seconds == 0;
  const bool may_share = may_reduce && may_gather && any_shared(options.leaders);
  double gather = 0, reduce = 0, finish = 0;
  const CostRates rates;
  for (const PlannedUnit& unit : plan.units) {
    const UnitLoad load = unit_load(plan, unit);
    gather += gather_seconds(load, rates);
    reduce += reduce_seconds(load, rates, options.chunk_bytes);
    choice.owners_seconds +=
        owners_seconds(load, owners_load(unit, load.clients, ranks, options.rules), rates);
    if (may_share)
      choice.nodes_seconds +=
          nodes_seconds(load, nodes_load(plan, unit, options.leaders), rates, options.chunk_bytes);
    finish += static_cast<double>(load.weights) * rates.finish_seconds_per_weight;
  }
  choice.root_seconds = (!may_gather ? reduce : may_reduce ? std::min(gather, reduce) : gather) + finish;
  choice.owners_seconds += finish / ranks;
  if (may_share) choice.nodes_seconds += finish;
  if (!may_gather) {
    choice.reason = "the transport is reduce";
    return choice;
  }
  if (choice.owners_seconds < choice.root_seconds) choice.topology = Topology::owners;
  if (may_share && choice.nodes_seconds < std::min(choice.root_seconds, choice.owners_seconds))
    choice.topology = Topology::nodes;
  const std::string nodes = may_share ? fmt::format(", nodes {:.3g} s", choice.nodes_seconds) : "";
  choice.reason = fmt::format("root {:.3g} s, owners {:.3g} s{} for {} ranks (forecast)", choice.root_seconds,
                              choice.owners_seconds, nodes, ranks);
  return choice;
}

}  // namespace fedspallm::comm
