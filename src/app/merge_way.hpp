// SPDX-License-Identifier: Apache-2.0
// Purpose: how the updates of a round come together: transport and topology as configured, or by the cost
// model, with the reasons in words. The same on every rank and in --dry-run.
#pragma once

#include "fedspallm/comm/exchange.hpp"
#include "fedspallm/config/config.hpp"

#include "device_transport.hpp"
#include "plan.hpp"
#include <memory>
#include <string>
#include <vector>

namespace fedspallm::app {

struct MergeWay {
  comm::ExchangeOptions options;
  std::vector<std::string> reasons;  // a line each
  bool fell_back = false;            // they say what could not be had
};

/// Which ranks are a node, and what each node shares, from round to round. The same leaders on all ranks.
struct Nodes {
  std::vector<int> leaders;  // as comm::ExchangeOptions; empty: nodes are not to be had
  std::shared_ptr<comm::NodeMemory> memory = nullptr;  // once it was needed
};
/// Collective: the nodes of this run. @throws ConfigError as comm::node_leaders(), on every rank
[[nodiscard]] Nodes nodes_of_run(comm::Communicator& communicator);

/// @param shared_folder  all ranks see one run directory: owners then write blocks each
/// @param leaders  by rank; empty: every rank is a node of its own, which `auto` does not choose
/// @param device  what all ranks decided of updates from GPU to GPU: with its transport they go that way
[[nodiscard]] MergeWay choose_way(const config::Config& config, const RoundPlan& plan, int ranks,
                                  bool shared_folder, const std::vector<int>& leaders,
                                  const DeviceChoice& device = {});
/// Collective. The same, with memory for nodes where they are chosen. Where a host lacks it, `auto` chooses
/// again without nodes. @throws Error with status no_resources on every rank where nodes are demanded
[[nodiscard]] MergeWay ready_way(comm::Communicator& communicator, const config::Config& config,
                                 const RoundPlan& plan, bool shared_folder, Nodes& nodes,
                                 const DeviceChoice& device = {});

[[nodiscard]] std::string name_of(comm::Topology topology);
/// "owners", "nodes", or the transport to the root: "gather", "reduce", "nccl".
[[nodiscard]] std::string name_of_way(const comm::ExchangeOptions& options);

}  // namespace fedspallm::app
