// SPDX-License-Identifier: Apache-2.0
// Purpose: what `simulate` prints: one JSON object, or tables for people with the same numbers.
#pragma once

#include <nlohmann/json.hpp>

#include "simulate_clock.hpp"
#include "simulate_forecast.hpp"
#include "simulate_run.hpp"
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::app {

/// Of every rank, for the report.
struct RankUse {
  int rank = 0;
  std::int64_t clients = 0;
  SimulatedResult result;
  std::int64_t rss_before = 0;  // resident bytes before the first exchange
  std::int64_t rss_peak = 0;
};
[[nodiscard]] nlohmann::json to_json(const RankUse& use);

struct SizeReport {
  MeasuredSize size;
  bool fitted = false;
  std::optional<double> forecast;
};

struct SimulationReport {
  std::string version, cpu;
  int cores = 0;
  std::string model;
  std::int64_t blocks = 0, block_weights = 0, blocks_run = 0, clients = 0, stragglers = 0;
  std::string way, reason, placement;
  std::uint64_t seed = 0;
  std::map<std::string, double> cost_model;  // way -> seconds a block, with configured links, of all clients
  VirtualRound clock;
  std::vector<nlohmann::json> ranks;  // RankUse of each
  std::string digest;
  std::vector<SizeReport> sizes;
  std::optional<PerformanceModel> performance;
  bool link_measured = false;
  std::optional<ScalingForecast> scaling;
  double client_block_seconds = 0;
};
[[nodiscard]] nlohmann::json to_json(const SimulationReport& report);
/// The same for people, from the JSON object.
[[nodiscard]] std::string to_text(const nlohmann::json& report);

}  // namespace fedspallm::app
