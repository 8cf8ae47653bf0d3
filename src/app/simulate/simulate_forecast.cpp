// SPDX-License-Identifier: Apache-2.0
#include "simulate_forecast.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/rounding.hpp"
#include "fedspallm/comm/bench.hpp"

#include "../merge_way.hpp"
#include <algorithm>
#include <cmath>
#include <functional>

namespace fedspallm::app {

namespace {

/// The x of [low, high] at which a growing function comes nearest to `wanted`, by halving on a logarithmic
/// scale.
double solve(double low, double high, double wanted, const std::function<double(double)>& growing) {
  for (int step = 0; step < 100; ++step) {
    const double middle = std::sqrt(low * high);
    (growing(middle) < wanted ? low : high) = middle;
  }
  return std::sqrt(low * high);
}

/// Blocks follow each other; while one is merged the next one is computed.
double round_seconds(double compute, double merge, std::int64_t blocks) {
  return compute + static_cast<double>(blocks - 1) * std::max(compute, merge) + merge;
}

std::vector<std::int64_t> powers_up_to(std::int64_t most) {
  std::vector<std::int64_t> all;
  for (std::int64_t gpus = 1; gpus < most; gpus *= 2) all.push_back(gpus);
  all.push_back(most);
  return all;
}

}  // namespace

std::array<comm::ExchangeOptions, 4> ways_of(const comm::ExchangeOptions& options) {
  comm::ExchangeOptions gather = options, reduce = options, owners = options, nodes = options;
  gather.topology = reduce.topology = comm::Topology::root;
  gather.transport = owners.transport = comm::Transport::gather;
  reduce.transport = comm::Transport::reduce;
  owners.topology = comm::Topology::owners;
  nodes.topology = comm::Topology::nodes;
  nodes.transport = comm::Transport::reduce;
  return {gather, reduce, owners, nodes};
}

double formula_seconds(std::span<const comm::PlannedUnit> units, std::int64_t clients, const Layout& layout,
                       const comm::CostRates& rates) {
  double seconds = 0;
  for (const comm::PlannedUnit& unit : units) {
    const comm::UnitLoad load = comm::even_load(unit, clients, layout.ranks, layout.root_hosts);
    const bool equal_nodes = layout.options.topology == comm::Topology::nodes && layout.ranks_per_node > 0;
    seconds += equal_nodes ? comm::nodes_seconds(load, {.links = load.links / layout.ranks_per_node}, rates,
                                                 layout.options.chunk_bytes)
                           : comm::merge_seconds(unit, load, layout.ranks, layout.options, rates);
  }
  return seconds;
}

double forecast_seconds(const PerformanceModel& model, std::span<const comm::PlannedUnit> units,
                        std::int64_t clients, const Layout& layout) {
  return model.fixed_seconds + formula_seconds(units, clients, layout, model.rates);
}

PerformanceModel fit_model(std::span<const MeasuredSize> sizes, std::span<const comm::PlannedUnit> units,
                           const Layout& layout, const comm::CostRates& link) {
  require(sizes.size() >= 2 && sizes.front().clients < sizes.back().clients,
          "fit_model: at least two sizes, ascending");
  std::vector<double> clients, seconds;
  for (const MeasuredSize& size : sizes) {
    clients.push_back(static_cast<double>(size.clients));
    seconds.push_back(size.seconds);
  }
  const comm::LineFit line = comm::fit_line(clients, seconds);
  PerformanceModel model;
  model.rates = link;
  model.a = line.fixed;
  model.b = line.per_unit;
  const auto growth = [&](const comm::CostRates& rates) {
    return formula_seconds(units, sizes.back().clients, layout, rates) -
           formula_seconds(units, sizes.front().clients, layout, rates);
  };
  const double wanted = line.per_unit * (clients.back() - clients.front());
  constexpr double kFastest = 1e-14, kSlowest = 1e-5;  // seconds per weight
  const auto adding = [&](double seconds_per_weight) {
    comm::CostRates rates = model.rates;
    rates.add_seconds_per_weight = seconds_per_weight;
    return rates;
  };
  if (growth(adding(kFastest)) > wanted) {
    const comm::CostRates plain = model.rates;
    const auto raised = [&](double slowdown) {
      comm::CostRates rates = adding(kFastest);
      rates.link_bytes_per_second = plain.link_bytes_per_second / slowdown;
      rates.seconds_per_message = plain.seconds_per_message * slowdown;
      return rates;
    };
    model.rates = raised(solve(1e-9, 1, wanted, [&](double slowdown) { return growth(raised(slowdown)); }));
    model.link_scaled = true;
  }
  model.rates.add_seconds_per_weight =
      solve(kFastest, kSlowest, wanted, [&](double add) { return growth(adding(add)); });
  // What is left of the line where it is known best: in its middle, as least squares of relative errors sees
  // it.
  const MeasuredSize& last = sizes.back();
  model.fixed_seconds = line.fixed + line.per_unit * static_cast<double>(last.clients) -
                        formula_seconds(units, last.clients, layout, model.rates);
  return model;
}

ScalingForecast forecast_scaling(const PerformanceModel& model, std::span<const comm::PlannedUnit> units,
                                 std::int64_t blocks, double client_block_seconds, std::int64_t clients,
                                 std::int64_t most_gpus, const comm::ExchangeOptions& options,
                                 std::int64_t gpus_per_node) {
  require(blocks >= 1 && clients >= 1 && most_gpus >= 1 && gpus_per_node >= 1,
          "forecast_scaling: blocks, clients, GPUs >= 1");
  const auto row = [&](std::int64_t gpus, std::int64_t number, const comm::ExchangeOptions& way) {
    const Layout layout{.ranks = gpus, .root_hosts = true, .options = way, .ranks_per_node = gpus_per_node};
    ScalingRow result{.gpus = gpus, .clients = number, .way = name_of_way(way)};
    result.compute_seconds = static_cast<double>(divide_up(number, gpus)) * client_block_seconds;
    result.merge_seconds = forecast_seconds(model, units, number, layout);
    result.seconds = round_seconds(result.compute_seconds, result.merge_seconds, blocks);
    return result;
  };
  ScalingForecast forecast;
  for (const comm::ExchangeOptions& way : ways_of(options)) {
    const double strong = row(1, clients, way).seconds;
    const double weak = row(1, 1, way).seconds;
    for (const std::int64_t gpus : powers_up_to(most_gpus)) {
      ScalingRow fixed = row(gpus, clients, way);
      fixed.efficiency = strong / (static_cast<double>(gpus) * fixed.seconds);
      forecast.strong.push_back(fixed);
      ScalingRow growing = row(gpus, gpus, way);
      growing.efficiency = weak / growing.seconds;
      forecast.weak.push_back(growing);
    }
  }
  return forecast;
}

}  // namespace fedspallm::app
