// SPDX-License-Identifier: Apache-2.0
// Purpose: how the updates of a round come together: transport and topology as configured, or by the cost
// model, with the reasons in words. The same on every rank and in --dry-run.
#pragma once

#include "fedspallm/comm/exchange.hpp"
#include "fedspallm/config/config.hpp"

#include "device_transport.hpp"
#include "plan.hpp"
#include <string>
#include <vector>

namespace fedspallm::app {

struct MergeWay {
  comm::ExchangeOptions options;
  std::vector<std::string> reasons;  // a line each
};

/// @param shared_folder  all ranks see one run directory: owners then write blocks each
/// @param device  what all ranks decided of updates from GPU to GPU: with its transport they go that way
[[nodiscard]] MergeWay choose_way(const config::Config& config, const RoundPlan& plan, int ranks,
                                  bool shared_folder, const DeviceChoice& device = {});

[[nodiscard]] std::string name_of(comm::Topology topology);
/// "owners", or the transport to the root: "gather", "reduce", "nccl".
[[nodiscard]] std::string name_of_way(const comm::ExchangeOptions& options);

}  // namespace fedspallm::app
