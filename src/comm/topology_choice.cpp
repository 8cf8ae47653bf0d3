// SPDX-License-Identifier: Apache-2.0
// The choice of a topology. Formulas stand in exchange.hpp beside choose_topology().
#include "fedspallm/comm/cost_model.hpp"

#include "forecast_parts.hpp"
#include "slice_plan.hpp"
#include <algorithm>
#include <bit>

namespace fedspallm::comm {

namespace {

double owners_seconds(const ExchangePlan& plan, const PlannedUnit& unit, const ExchangeOptions& options,
                      int ranks, const CostRates& rates) {
  const UnitLoad load = unit_load(plan, unit);
  const double share = 1 / static_cast<double>(ranks);
  const auto update = static_cast<double>(load.update_bytes);
  const double sent = static_cast<double>(load.most_clients) * update * (1 - share);
  const double received = static_cast<double>(load.clients) * update * share;
  const double add = static_cast<double>(load.weights) * static_cast<double>(load.clients) * share *
                     rates.add_seconds_per_weight;
  const std::int64_t kept = unit.expected_kept >= 0 ? unit.expected_kept : load.weights;
  const double results =
      static_cast<double>(result_bytes(unit, load.weights, kept, load.clients)) * (1 - share);
  const auto sums = std::ssize(aggregate::sums_of_finishing(options.rules, load.clients, ranks)) +
                    (unit.with_diagonal ? 1 : 0);
  const auto levels = static_cast<std::int64_t>(std::bit_width(static_cast<unsigned>(ranks - 1)));
  return std::max(std::max(sent, received) / rates.link_bytes_per_second, add) +
         results / rates.link_bytes_per_second +
         static_cast<double>(3 + 2 * levels * sums) * rates.seconds_per_message;
}

}  // namespace

TopologyChoice choose_topology(const ExchangePlan& plan, const ExchangeOptions& options,
                               std::optional<Transport> transport, int ranks) {
  TopologyChoice choice;
  if (ranks == 1) {
    choice.reason = "one rank merges alone";
    return choice;
  }
  const bool may_gather = transport != Transport::reduce;
  const bool may_reduce = transport != Transport::gather && options.deadline_seconds == 0;
  double gather = 0, reduce = 0;
  const CostRates rates;
  for (const PlannedUnit& unit : plan.units) {
    const UnitLoad load = unit_load(plan, unit);
    gather += gather_seconds(load, rates);
    reduce += reduce_seconds(load, rates, options.chunk_bytes);
    choice.owners_seconds += owners_seconds(plan, unit, options, ranks, rates);
  }
  choice.root_seconds = !may_gather ? reduce : may_reduce ? std::min(gather, reduce) : gather;
  if (!may_gather) {
    choice.reason = "the transport is reduce";
    return choice;
  }
  if (choice.owners_seconds < choice.root_seconds) choice.topology = Topology::owners;
  choice.reason = fmt::format("root {:.3g} s, owners {:.3g} s for {} ranks (forecast)", choice.root_seconds,
                              choice.owners_seconds, ranks);
  return choice;
}

}  // namespace fedspallm::comm
