// SPDX-License-Identifier: Apache-2.0
#include "merge_way.hpp"

#include "fedspallm/aggregate/shared_merge.hpp"
#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <cstdlib>
#include <optional>

namespace fedspallm::app {

namespace {

using config::TopologyKind;
using config::TransportKind;

/// What the configuration leaves no choice about.
std::optional<comm::Transport> fixed_transport(const config::Federation& federation) {
  if (federation.transport == TransportKind::reduce) return comm::Transport::reduce;
  if (federation.transport == TransportKind::gather || federation.deadline > 0)
    return comm::Transport::gather;
  return std::nullopt;
}

/// The transport at the root, where both may be used, with the reason.
comm::Transport root_transport(const config::Federation& federation, const RoundPlan& plan, int ranks,
                               std::vector<std::string>& reasons) {
  if (const auto fixed = fixed_transport(federation)) {
    const bool for_deadline = federation.transport == TransportKind::automatic;
    reasons.push_back(fmt::format("transport {}: {}", name_of(*fixed),
                                  for_deadline ? "a deadline needs it" : "as the configuration says"));
    return *fixed;
  }
  const comm::TransportChoice choice = comm::choose_transport(plan.exchange, ranks);
  reasons.push_back(fmt::format("transport {}: {}", name_of(choice.transport), choice.reason));
  return choice.transport;
}

/// For a shared state of the plan's largest matrix.
std::int64_t largest_state(const RoundPlan& plan) {
  std::int64_t bytes = 0;
  for (const comm::PlannedUnit& unit : plan.exchange.units)
    bytes = std::max(bytes, aggregate::SharedMerge::bytes(unit.rows, unit.cols));
  return bytes;
}

comm::Topology chosen_topology(const config::Federation& federation, const RoundPlan& plan, int ranks,
                               const comm::ExchangeOptions& options, std::vector<std::string>& reasons) {
  if (federation.topology == TopologyKind::automatic) {
    const comm::TopologyChoice choice =
        comm::choose_topology(plan.exchange, options, fixed_transport(federation), ranks);
    reasons.push_back(fmt::format("topology {}: {}", name_of(choice.topology), choice.reason));
    return choice.topology;
  }
  const comm::Topology topology = federation.topology == TopologyKind::root     ? comm::Topology::root
                                  : federation.topology == TopologyKind::owners ? comm::Topology::owners
                                                                                : comm::Topology::nodes;
  reasons.push_back(fmt::format("topology {}: as the configuration says", name_of(topology)));
  return topology;
}

/// What travels there.
comm::Transport chosen_transport(const config::Federation& federation, const RoundPlan& plan, int ranks,
                                 comm::Topology topology, std::vector<std::string>& reasons) {
  switch (topology) {
    case comm::Topology::owners:
      return comm::Transport::gather;
    case comm::Topology::nodes:
      return comm::Transport::reduce;
    case comm::Topology::root:
      break;
  }
  return root_transport(federation, plan, ranks, reasons);
}

}  // namespace

std::string name_of(comm::Topology topology) {
  if (topology == comm::Topology::nodes) return "nodes";
  return topology == comm::Topology::owners ? "owners" : "root";
}

std::string name_of_way(const comm::ExchangeOptions& options) {
  return options.topology == comm::Topology::root ? name_of(options.transport) : name_of(options.topology);
}

MergeWay choose_way(const config::Config& config, const RoundPlan& plan, int ranks, bool shared_folder,
                    const std::vector<int>& leaders, const DeviceChoice& device) {
  const config::Federation& federation = config.federation;
  MergeWay way;
  comm::ExchangeOptions& options = way.options;
  options.chunk_bytes = federation.chunk_bytes;
  options.deadline_seconds = federation.deadline;
  options.drop_late = federation.on_client_failure == config::OnClientFailure::drop;
  options.rules = plan.rules;
  if (device.transport != nullptr) {
    options.transport = comm::Transport::nccl;
    options.device = device.transport;
    way.reasons = {fmt::format("transport nccl: {}", device.reason)};
    return way;
  }
  if (federation.transport == TransportKind::nccl) {
    options.transport = comm::Transport::nccl;
    way.reasons = {"transport nccl, topology root: as the configuration says"};
    return way;
  }
  options.leaders = leaders.empty() ? comm::even_nodes(ranks, 1) : leaders;
  options.topology = chosen_topology(federation, plan, ranks, options, way.reasons);
  options.transport = chosen_transport(federation, plan, ranks, options.topology, way.reasons);
  options.spread_writing = options.topology == comm::Topology::owners && shared_folder;
  return way;
}

Nodes nodes_of_run(comm::Communicator& communicator) {
  Nodes nodes;
  communicator.together([&] {
    nodes.leaders = comm::node_leaders(communicator, [](const char* name) { return std::getenv(name); });
  });
  return nodes;
}

MergeWay ready_way(comm::Communicator& communicator, const config::Config& config, const RoundPlan& plan,
                   bool shared_folder, Nodes& nodes, const DeviceChoice& device) {
  const auto choose = [&] {
    return choose_way(config, plan, communicator.size(), shared_folder, nodes.leaders, device);
  };
  MergeWay way = choose();
  if (way.options.topology != comm::Topology::nodes) return way;
  const std::int64_t needed = largest_state(plan);
  try {
    if (nodes.memory == nullptr || nodes.memory->state_bytes() < needed) {
      nodes.memory.reset();
      nodes.memory = std::make_shared<comm::NodeMemory>(communicator, way.options.leaders, needed);
    }
  } catch (const Error& error) {
    if (error.status() != ExitStatus::no_resources) throw;
    if (config.federation.topology == TopologyKind::nodes)
      throw Error(error.status(),
                  fmt::format("{}. Make room, or use federation.topology = \"auto\", which does "
                              "without where it must",
                              error.what()));
    nodes.leaders.clear();  // nobody asks again
    way = choose();
    way.reasons.insert(way.reasons.begin(), fmt::format("topology nodes cannot be had: {}", error.what()));
    way.fell_back = true;
    return way;
  }
  way.options.node_memory = nodes.memory;
  return way;
}

}  // namespace fedspallm::app
