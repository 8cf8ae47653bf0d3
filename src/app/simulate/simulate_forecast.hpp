// SPDX-License-Identifier: Apache-2.0
// Purpose: a performance model of a round: rates fitted from sizes measured in this run, put into the cost
// model's formulas (comm/cost_model.hpp), and what they say of sizes that this machine does not have.
// Non-goals: measuring (simulate_command.cpp), formulas of their own.
#pragma once

#include "fedspallm/comm/cost_model.hpp"

#include "simulate_model.hpp"
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::app {

/// How clients meet the ranks.
struct Layout {
  std::int64_t ranks = 1;
  bool root_hosts = true;
  comm::ExchangeOptions options;    // topology, transport, leaders, chunk_bytes and rules count
  std::int64_t ranks_per_node = 0;  // topology nodes: of equal nodes; 0 = as options.leaders
};

/// One measured number of clients: seconds of merge and wire per block, the median of all runs.
struct MeasuredSize {
  std::int64_t clients = 0;
  double seconds = 0;
  std::int64_t peak_merge_bytes = 0;
  std::int64_t runs = 1;
};

struct PerformanceModel {
  comm::CostRates rates;
  double fixed_seconds = 0;  // per block, beside what grows with clients: finishing, threads that wake up
  double a = 0, b = 0;       // seconds per block = a + b N, as measured: for people
  bool link_scaled = false;  // messages went faster than plain ones one by one: the link's rates were raised
};

/// The ways of merging between hosts, all else as in `options`: gather, reduce, owners, nodes.
[[nodiscard]] std::array<comm::ExchangeOptions, 4> ways_of(const comm::ExchangeOptions& options);

/// Seconds to bring one block of `units` together, by the formulas alone.
[[nodiscard]] double formula_seconds(std::span<const comm::PlannedUnit> units, std::int64_t clients,
                                     const Layout& layout, const comm::CostRates& rates);
[[nodiscard]] double forecast_seconds(const PerformanceModel& model, std::span<const comm::PlannedUnit> units,
                                      std::int64_t clients, const Layout& layout);

/// The rate of adding is chosen such that the formulas grow with the number of clients as the measured sizes
/// do; where a link slower than that would hide it, the link's rates are raised instead.
/// @param link  as measured by plain messages @pre at least two sizes, ascending, seconds > 0
[[nodiscard]] PerformanceModel fit_model(std::span<const MeasuredSize> sizes,
                                         std::span<const comm::PlannedUnit> units, const Layout& layout,
                                         const comm::CostRates& link);

/// A round on `gpus` GPUs, one rank each, every client computing at the median rate.
struct ScalingRow {
  std::int64_t gpus = 1;
  std::int64_t clients = 1;
  std::string way;             // gather, reduce, owners, nodes
  double compute_seconds = 0;  // of the GPU that has most clients, per block
  double merge_seconds = 0;    // per block
  double seconds = 0;          // of the round: blocks overlap with the merge of the block before
  double efficiency = 1;       // strong: T(1) / (G T(G)); weak: T(1) / T(G)
};
struct ScalingForecast {
  std::vector<ScalingRow> strong;  // as many clients on more and more GPUs
  std::vector<ScalingRow> weak;    // one client on each GPU
};
/// Rows of gather, reduce, owners and nodes.
/// @param client_block_seconds  of one client for one block @param clients  of strong scaling
/// @param options  chunk_bytes and rules count
/// @param gpus_per_node  of the way nodes
[[nodiscard]] ScalingForecast forecast_scaling(const PerformanceModel& model,
                                               std::span<const comm::PlannedUnit> units, std::int64_t blocks,
                                               double client_block_seconds, std::int64_t clients,
                                               std::int64_t most_gpus,
                                               const comm::ExchangeOptions& options = {},
                                               std::int64_t gpus_per_node = 8);

}  // namespace fedspallm::app
