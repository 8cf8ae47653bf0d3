// SPDX-License-Identifier: Apache-2.0
#include "merge_way.hpp"

#include "fedspallm/base/error.hpp"

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

}  // namespace

std::string name_of(comm::Topology topology) {
  return topology == comm::Topology::owners ? "owners" : "root";
}

std::string name_of_way(const comm::ExchangeOptions& options) {
  return options.topology == comm::Topology::owners ? name_of(options.topology) : name_of(options.transport);
}

MergeWay choose_way(const config::Config& config, const RoundPlan& plan, int ranks, bool shared_folder,
                    const DeviceChoice& device) {
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
  switch (federation.topology) {
    case TopologyKind::root:
      options.topology = comm::Topology::root;
      break;
    case TopologyKind::owners:
      options.topology = comm::Topology::owners;
      break;
    case TopologyKind::automatic: {
      const comm::TopologyChoice choice =
          comm::choose_topology(plan.exchange, options, fixed_transport(federation), ranks);
      options.topology = choice.topology;
      way.reasons.push_back(fmt::format("topology {}: {}", name_of(choice.topology), choice.reason));
      break;
    }
  }
  if (federation.topology != TopologyKind::automatic)
    way.reasons.push_back(fmt::format("topology {}: as the configuration says", name_of(options.topology)));
  options.transport = options.topology == comm::Topology::root
                          ? root_transport(federation, plan, ranks, way.reasons)
                          : comm::Transport::gather;  // what owners are sent
  options.spread_writing = options.topology == comm::Topology::owners && shared_folder;
  return way;
}

}  // namespace fedspallm::app
