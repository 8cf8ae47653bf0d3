// SPDX-License-Identifier: Apache-2.0
// Forecasts of bytes and seconds. Formulas stand in exchange.hpp beside choose_transport().
#include "fedspallm/comm/cost_model.hpp"

#include "fedspallm/base/rounding.hpp"

#include "../messages.hpp"
#include "../plan_index.hpp"
#include "forecast_parts.hpp"
#include <algorithm>
#include <iterator>
#include <map>

namespace fedspallm::comm {

namespace {

/// Bytes of the sums of one unit as they travel along a chain.
std::int64_t chain_bytes(const PlannedUnit& unit) {
  return merge_bytes(unit);
}

UnitLoad shape_of(const PlannedUnit& unit) {
  return {
      .weights = unit.rows * unit.cols, .update_bytes = update_bytes(unit), .sum_bytes = chain_bytes(unit)};
}

}  // namespace

UnitLoad unit_load(const ExchangePlan& plan, const PlannedUnit& unit) {
  UnitLoad load = shape_of(unit);
  for (const auto& [rank, clients] : clients_by_rank(plan, unit)) {
    load.clients += clients;
    load.most_clients = std::max(load.most_clients, clients);
    if (rank == 0) continue;
    load.remote_clients += clients;
    ++load.links;
  }
  return load;
}

UnitLoad even_load(const PlannedUnit& unit, std::int64_t clients, std::int64_t ranks, bool root_hosts) {
  require(clients >= 1 && ranks >= 1, "even_load: clients, ranks >= 1");
  require(root_hosts || ranks > 1, "even_load: some rank hosts clients");
  const std::int64_t hosts = root_hosts ? ranks : ranks - 1;
  UnitLoad load = shape_of(unit);
  load.clients = clients;
  load.most_clients = divide_up(clients, hosts);
  load.remote_clients = root_hosts ? clients - load.most_clients : clients;
  load.links = std::min(hosts, clients) - (root_hosts ? 1 : 0);
  return load;
}

double gather_seconds(const UnitLoad& load, const CostRates& rates) {
  const double link =
      static_cast<double>(load.remote_clients) *
      (static_cast<double>(load.update_bytes) / rates.link_bytes_per_second + rates.seconds_per_message / 3);
  const double add =
      static_cast<double>(load.weights) * static_cast<double>(load.clients) * rates.add_seconds_per_weight;
  return std::max(link, add);
}

double reduce_seconds(const UnitLoad& load, const CostRates& rates, std::int64_t chunk_bytes) {
  const double own = static_cast<double>(load.weights) * static_cast<double>(load.most_clients) *
                     rates.add_seconds_per_weight;
  if (load.links == 0) return own;
  const auto bytes = static_cast<double>(load.sum_bytes);
  const double chunk = std::min(bytes, static_cast<double>(chunk_bytes));
  const double per_byte = std::max(1 / rates.link_bytes_per_second, rates.add_tiles_seconds_per_byte);
  const auto hops = static_cast<double>(load.links);
  return own + (bytes + (hops - 1) * chunk) * per_byte + (hops + 1) * rates.seconds_per_message;
}

double merge_seconds(const PlannedUnit& unit, const UnitLoad& load, std::int64_t ranks,
                     const ExchangeOptions& options, const CostRates& rates) {
  if (options.topology == Topology::owners)
    return owners_seconds(load, owners_load(unit, load.clients, ranks, options.rules), rates);
  if (options.topology == Topology::nodes)
    return nodes_seconds(load, even_nodes_load(load, options.leaders), rates, options.chunk_bytes);
  require(options.transport != Transport::nccl, "merge_seconds: gather, reduce, owners or nodes");
  return options.transport == Transport::gather ? gather_seconds(load, rates)
                                                : reduce_seconds(load, rates, options.chunk_bytes);
}

std::string name_of(Transport transport) {
  if (transport == Transport::nccl) return "nccl";
  return transport == Transport::reduce ? "reduce" : "gather";
}

std::int64_t forecast_bytes(const ExchangePlan& plan, Transport transport, int rank, int ranks) {
  const PlanIndex index(plan, ranks);
  require(rank >= 0 && rank < ranks, "forecast_bytes: 0 <= rank < ranks");
  const auto size_of_message = [](const Message& message) {
    return static_cast<std::int64_t>(to_bytes(message).size());
  };
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < index.size(); ++i) {
    const PlannedUnit& unit = index.unit(i);
    const bool ends_block = index.block_of(i + 1) != index.block_of(i);
    if (rank == 0 && ends_block) bytes += (ranks - 1) * size_of_message(DurableMessage());
    for (const auto& [place, clients] : clients_by_rank(plan, unit)) {
      if (place == 0) continue;  // the root's own clients need no message
      if (rank == 0) {           // what allows the others to send
        bytes += transport == Transport::reduce ? size_of_message(ScaleMessage())
                                                : clients * size_of_message(GrantMessage());
      } else if (rank == place) {
        bytes += announce_bytes(clients);
        bytes += transport == Transport::reduce   ? chain_bytes(unit)
                 : transport == Transport::gather ? clients * update_bytes(unit)
                                                  : clients * device_bytes(unit);
      }
    }
  }
  return bytes;
}

std::int64_t closing_bytes(int rank, int ranks) {
  const auto size_of = [](const Message& message) { return std::ssize(to_bytes(message)); };
  if (rank == 0) return (ranks - 1) * size_of(DoneMessage());
  return size_of(FinishMessage()) + size_of(ByeMessage());
}

std::int64_t drop_bytes(const std::string& reason) {
  return std::ssize(to_bytes(Message(DropMessage{.reason = reason})));
}

std::int64_t absent_bytes(std::int64_t clients) {
  SliceMessage message;
  message.absent.resize(static_cast<std::size_t>(clients));
  return message_bytes(message) - message_bytes(SliceMessage());
}

std::int64_t forecast_bytes(const ExchangePlan& plan, const ExchangeOptions& options, int rank, int ranks) {
  if (options.topology == Topology::root) return forecast_bytes(plan, options.transport, rank, ranks);
  require(rank >= 0 && rank < ranks, "forecast_bytes: 0 <= rank < ranks");
  const PlanIndex index(plan, ranks);
  return options.topology == Topology::nodes ? forecast_nodes(index, options, rank, ranks)
                                             : forecast_owners(index, options, rank, ranks);
}

TransportChoice choose_transport(const ExchangePlan& plan, int ranks) {
  TransportChoice choice;
  for (int rank = 0; rank < ranks; ++rank) {
    choice.gather_bytes += forecast_bytes(plan, Transport::gather, rank, ranks);
    choice.reduce_bytes += forecast_bytes(plan, Transport::reduce, rank, ranks);
  }
  for (const PlannedUnit& unit : plan.units) {
    const UnitLoad load = unit_load(plan, unit);
    choice.gather_seconds += gather_seconds(load, CostRates());
    choice.reduce_seconds += reduce_seconds(load, CostRates());
  }
  const bool reduce = ranks > 1 && choice.reduce_seconds < choice.gather_seconds;
  choice.transport = reduce ? Transport::reduce : Transport::gather;
  constexpr double mega = 1e6;
  choice.reason =
      fmt::format("gather {:.1f} MB, {:.3g} s; reduce {:.1f} MB, {:.3g} s for {} ranks (forecast)",
                  static_cast<double>(choice.gather_bytes) / mega, choice.gather_seconds,
                  static_cast<double>(choice.reduce_bytes) / mega, choice.reduce_seconds, ranks);
  if (ranks == 1) choice.reason = "one rank, nothing travels";
  return choice;
}

}  // namespace fedspallm::comm
