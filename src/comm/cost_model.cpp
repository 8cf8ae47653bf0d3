// SPDX-License-Identifier: Apache-2.0
// Forecasts of bytes and seconds. Formulas stand in exchange.hpp beside choose_transport().
#include "fedspallm/comm/exchange.hpp"

#include "messages.hpp"
#include "plan_index.hpp"
#include <algorithm>
#include <map>

namespace fedspallm::comm {

namespace {

// Rates of one link and one core. Only their ratios matter for the choice.
constexpr double kLinkBytesPerSecond = 1.2e9;  // 10 Gbit/s Ethernet: the slowest network of today's clusters
constexpr double kSecondsPerMessage =
    200e-6;  // a request and its answer between threads that poll every 0.1 ms
constexpr double kAddSecondsPerWeight = 0.8e-9;    // one core: 0.6 to add (bench transport), 0.2 to decode
constexpr double kAddTilesSecondsPerByte = 1e-10;  // one core: tiles at 9 to 10 GB/s (bench transport)

/// Bytes of the sums of one unit as they travel along a chain.
std::int64_t chain_bytes(const PlannedUnit& unit) {
  return merge_bytes(unit);
}

/// Number of the unit's clients on each rank that has some.
std::map<int, std::int64_t> clients_by_rank(const ExchangePlan& plan, const PlannedUnit& unit) {
  std::map<int, std::int64_t> clients;
  for (const std::uint32_t client : unit.clients) ++clients[plan.rank_of_client[client]];
  return clients;
}

double gather_seconds(const ExchangePlan& plan, const PlannedUnit& unit) {
  std::int64_t remote = 0;
  for (const auto& [rank, clients] : clients_by_rank(plan, unit)) remote += rank == 0 ? 0 : clients;
  const double link =
      static_cast<double>(remote) *
      (static_cast<double>(update_bytes(unit)) / kLinkBytesPerSecond + kSecondsPerMessage / 3);
  const double add = static_cast<double>(unit.rows * unit.cols) * static_cast<double>(unit.clients.size()) *
                     kAddSecondsPerWeight;
  return std::max(link, add);
}

double reduce_seconds(const ExchangePlan& plan, const PlannedUnit& unit) {
  std::int64_t most_clients = 0;
  std::int64_t links = 0;
  for (const auto& [rank, clients] : clients_by_rank(plan, unit)) {
    most_clients = std::max(most_clients, clients);
    if (rank != 0) ++links;
  }
  const double own = static_cast<double>(unit.rows * unit.cols * most_clients) * kAddSecondsPerWeight;
  if (links == 0) return own;
  const auto bytes = static_cast<double>(chain_bytes(unit));
  const double chunk = std::min(bytes, static_cast<double>(ExchangeOptions().chunk_bytes));
  const double per_byte = std::max(1 / kLinkBytesPerSecond, kAddTilesSecondsPerByte);
  const auto hops = static_cast<double>(links);
  return own + (bytes + (hops - 1) * chunk) * per_byte + (hops + 1) * kSecondsPerMessage;
}

}  // namespace

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
        bytes += transport == Transport::gather ? clients * size_of_message(GrantMessage())
                                                : size_of_message(ScaleMessage());
      } else if (rank == place) {
        bytes += announce_bytes(clients);
        bytes += transport == Transport::gather ? clients * update_bytes(unit) : chain_bytes(unit);
      }
    }
  }
  return bytes;
}

TransportChoice choose_transport(const ExchangePlan& plan, int ranks) {
  TransportChoice choice;
  for (int rank = 0; rank < ranks; ++rank) {
    choice.gather_bytes += forecast_bytes(plan, Transport::gather, rank, ranks);
    choice.reduce_bytes += forecast_bytes(plan, Transport::reduce, rank, ranks);
  }
  for (const PlannedUnit& unit : plan.units) {
    choice.gather_seconds += gather_seconds(plan, unit);
    choice.reduce_seconds += reduce_seconds(plan, unit);
  }
  const bool reduce = ranks > 1 && choice.reduce_seconds < choice.gather_seconds;
  choice.transport = reduce ? Transport::reduce : Transport::gather;
  constexpr double mega = 1e6;
  choice.reason = fmt::format(
      "transport {} for {} ranks: gather {:.1f} MB, {:.3g} s; reduce {:.1f} MB, {:.3g} s (forecast)",
      reduce ? "reduce" : "gather", ranks, static_cast<double>(choice.gather_bytes) / mega,
      choice.gather_seconds, static_cast<double>(choice.reduce_bytes) / mega, choice.reduce_seconds);
  if (ranks == 1) choice.reason = "transport gather: one rank, nothing travels";
  return choice;
}

}  // namespace fedspallm::comm
