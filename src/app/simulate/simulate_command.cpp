// SPDX-License-Identifier: Apache-2.0
// simulate: who takes part in virtual time, the round's exchange for real, further sizes for the performance
// model, and its forecasts.
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/heap.hpp"
#include "fedspallm/comm/bench.hpp"
#include "fedspallm/report/system.hpp"

#include "../commands.hpp"
#include "../inputs.hpp"
#include "../merge_way.hpp"
#include "simulate_report.hpp"
#include <algorithm>
#include <chrono>
#include <cstdio>

namespace fedspallm::app {

namespace {

constexpr std::int64_t kMostGpus = 10'000;  // of forecasts

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// Seconds to add a byte of tiles to tiles, one thread, from memory.
double tiles_seconds_per_byte() {
  constexpr std::size_t kTiles = (std::size_t{8} << 20) / sizeof(aggregate::Tile);
  const std::vector<aggregate::Tile> from(kTiles);
  std::vector<aggregate::Tile> into(kTiles);
  std::vector<double> seconds;
  for (int repeat = 0; repeat < 7; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    aggregate::add_tiles(from, into);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return median(seconds) / static_cast<double>(kTiles * sizeof(aggregate::Tile));
}

class Simulation {
 public:
  Simulation(comm::Communicator& communicator, config::Config config)
      : communicator_(communicator),
        config_(std::move(config)),
        simulate_(config_.simulate.value()),
        laws_(simulate_, config_.run.seed, 1) {
    communicator_.together([&] {
      check<NotCompiled>(config_.federation.transport != config::TransportKind::nccl,
                         "simulate: federation.transport = \"nccl\": expected auto, gather or reduce");
      check<ConfigError>(config_.federation.aggregation != config::Aggregation::none,
                         "simulate: federation.aggregation: found \"none\", expected \"l0\" or \"mean\"");
      check<ConfigError>(simulate_.placement == config::Placement::all || communicator_.size() > 1,
                         "simulate.placement: found \"workers\", expected \"all\": there is only one rank");
      model_ = simulated_model(config_);
    });
    nodes_ = nodes_of_run(communicator_);
  }

  nlohmann::json run() {
    report_.version = version_text();
    report_.cpu = report::cpu_model();
    report_.cores = report::affinity_cores();
    report_.model = model_.name;
    report_.blocks = model_.architecture.blocks;
    report_.block_weights = model_.block_weights();
    report_.blocks_run = std::min(simulate_.blocks, model_.architecture.blocks);
    report_.clients = simulate_.clients;
    report_.placement = config::name_of(simulate_.placement);
    report_.seed = config_.run.seed;
    rss_before_ = report::rss_bytes();
    main_round();
    if (simulate_.fit.size() >= 2) measure_sizes();
    collect_ranks();
    return to_json(report_);
  }

 private:
  /// The configuration with so many clients of their own laws.
  [[nodiscard]] config::Config with_clients(std::int64_t clients, bool laws) const {
    config::Config config = config_;
    config.clients.assign(static_cast<std::size_t>(clients), {});
    for (std::uint32_t client = 0; client < config.clients.size(); ++client) {
      if (laws) config.clients[client].resources = laws_.resources(client);
      if (simulate_.placement == config::Placement::workers)
        config.clients[client].rank =
            1 + static_cast<int>(client % static_cast<std::uint32_t>(communicator_.size() - 1));
    }
    if (!laws) config.federation.layer_sampling = config::LayerSampling::none;
    return config;
  }

  [[nodiscard]] RoundPlan planned(const config::Config& config) {
    RoundPlan plan;
    communicator_.together([&] {
      plan = plan_round(config, model_.plan_model(), ranks_of_clients(config, communicator_.size()), {1, 0});
      plan.exchange.client_names.clear();  // they have none
    });
    return plan;
  }

  void main_round() {
    RoundPlan plan = planned(with_clients(simulate_.clients, true));
    const MergeWay way =
        ready_way(communicator_, config_, plan, /*shared_folder=*/false, nodes_);  // the root writes
    options_ = way.options;
    options_.deadline_seconds = 0;  // it runs in virtual time
    report_.way = name_of_way(options_);
    report_.reason = fmt::format("{}", fmt::join(way.reasons, "; "));
    report_.clock = run_clock(plan.drawn, laws_, clock_options(plan));
    plan.drawn = {};  // what follows takes memory of each client only where it must
    plan.delivers_until = {};
    give_back_freed_memory();
    for (std::uint32_t client = 0; client < plan.exchange.rank_of_client.size(); ++client)
      report_.stragglers += laws_.straggles(client) ? 1 : 0;
    hosted_ = std::ranges::count(plan.exchange.rank_of_client, communicator_.rank());
    keep_blocks(plan, simulate_.blocks);
    SimulatedExchange what{config_, plan, options_};
    for (const comm::Dropped& one : report_.clock.dropped) what.dropped.emplace(one.client, one);
    if (simulate_.checkpoint) what.folder = config_.run.dir;
    main_ = run_exchange(communicator_, what);
    report_.digest = main_.digest;
    block_units_.assign(plan.exchange.units.begin(), plan.exchange.units.end());
    std::erase_if(block_units_, [&](const comm::PlannedUnit& unit) {
      return unit.id.block != block_units_.front().id.block;
    });
    for (comm::PlannedUnit& unit : block_units_) unit.clients = {};
    for (const comm::ExchangeOptions& one : ways_of(options_))
      report_.cost_model[name_of_way(one)] =
          formula_seconds(block_units_, simulate_.clients, layout(one), configured_links());
  }

  [[nodiscard]] comm::CostRates configured_links() const {
    comm::CostRates rates;
    rates.link_bytes_per_second = simulate_.link_bytes;
    rates.seconds_per_message = simulate_.latency;
    return rates;
  }

  /// This run's ranks.
  [[nodiscard]] Layout layout(const comm::ExchangeOptions& way) const {
    return {.ranks = communicator_.size(),
            .root_hosts = simulate_.placement == config::Placement::all,
            .options = way};
  }

  [[nodiscard]] ClockOptions clock_options(const RoundPlan& plan) const {
    ClockOptions options;
    options.work = block_work(model_.architecture, config_.calibration);
    options.deadline = config_.federation.deadline;
    options.merge_seconds = [this, &plan, rates = configured_links()](std::int64_t block,
                                                                      std::int64_t clients) {
      const Layout own_machines{
          .ranks = clients + 1, .root_hosts = false, .options = options_, .ranks_per_node = 1};
      std::vector<comm::PlannedUnit> units;
      for (const std::size_t index : plan.unit[static_cast<std::size_t>(block)])
        if (index != kNoUnit) units.push_back(plan.exchange.units[index]);
      return formula_seconds(units, clients, own_machines, rates);
    };
    return options;
  }

  /// Sizes take turns, so that what slows the machine for a while slows all of them.
  void measure_sizes() {
    std::vector<std::int64_t> all = simulate_.fit;
    all.insert(all.end(), simulate_.held_out.begin(), simulate_.held_out.end());
    std::ranges::sort(all);
    std::vector<RoundPlan> plans;
    for (const std::int64_t clients : all) {
      plans.push_back(planned(with_clients(clients, false)));
      keep_blocks(plans.back(), simulate_.blocks);
    }
    std::vector<SizeRuns> runs(all.size());
    for (std::int64_t repeat = 0; repeat < simulate_.repeats; ++repeat)
      for (std::size_t i = 0; i < all.size(); ++i)
        for (std::int64_t turn = 0; turn < runs_in_turn(all[i]); ++turn) measure(plans[i], runs[i]);
    std::vector<MeasuredSize> fitted;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool fit = std::ranges::binary_search(simulate_.fit, all[i]);
      const MeasuredSize size{.clients = all[i],
                              .seconds = median(runs[i].seconds),
                              .peak_merge_bytes = runs[i].peak_merge_bytes,
                              .runs = std::ssize(runs[i].seconds)};
      report_.sizes.push_back({size, fit, {}});
      if (fit) fitted.push_back(size);
    }
    const comm::LineFit link = comm::measure_link(communicator_, 5);
    if (communicator_.rank() == 0) forecast(fitted, link);
  }

  struct SizeRuns {
    std::vector<double> seconds;
    std::int64_t peak_merge_bytes = 0;
  };

  /// A run of few clients takes a tenth of a second, of which waking up threads is much: more of them are
  /// measured.
  static std::int64_t runs_in_turn(std::int64_t clients) {
    constexpr std::int64_t kClients = 256, kMost = 8;
    return std::clamp<std::int64_t>(kClients / clients, 1, kMost);
  }

  void measure(const RoundPlan& plan, SizeRuns& runs) {
    communicator_.barrier();
    const SimulatedResult result = run_exchange(communicator_, {config_, plan, options_});
    runs.seconds.push_back(result.merge_and_wire() / static_cast<double>(report_.blocks_run));
    runs.peak_merge_bytes = std::max(runs.peak_merge_bytes, result.peak_merge_bytes);
  }

  /// At the root.
  void forecast(const std::vector<MeasuredSize>& fitted, const comm::LineFit& link) {
    comm::CostRates rates;
    report_.link_measured = link.per_unit > 0;
    rates.link_bytes_per_second = report_.link_measured ? 1 / link.per_unit : simulate_.link_bytes;
    rates.seconds_per_message = report_.link_measured ? std::max(link.fixed, 1e-9) : simulate_.latency;
    rates.add_tiles_seconds_per_byte = tiles_seconds_per_byte();
    report_.performance = fit_model(fitted, block_units_, layout(options_), rates);
    for (SizeReport& size : report_.sizes)
      size.forecast =
          forecast_seconds(*report_.performance, block_units_, size.size.clients, layout(options_));
    PerformanceModel cluster = *report_.performance;
    cluster.rates.link_bytes_per_second = simulate_.link_bytes;
    cluster.rates.seconds_per_message = simulate_.latency;
    cluster.fixed_seconds = std::max(0.0, cluster.fixed_seconds);
    report_.client_block_seconds =
        block_work(model_.architecture, config_.calibration).prune / simulate_.flops;
    report_.scaling =
        forecast_scaling(cluster, block_units_, model_.architecture.blocks, report_.client_block_seconds,
                         kMostGpus, kMostGpus, options_, simulate_.gpus_per_node);
  }

  /// Memory's peak is that of all that was run, so sizes are to be compared one process each.
  void collect_ranks() {
    RankUse own{.rank = communicator_.rank(), .clients = hosted_, .result = main_};
    own.rss_before = rss_before_;
    own.rss_peak = report::peak_rss_bytes();
    for (const std::string& text : communicator_.gather(to_json(own).dump()))
      report_.ranks.push_back(nlohmann::json::parse(text));
  }

  comm::Communicator& communicator_;
  config::Config config_;
  config::Simulate simulate_;
  ClientLaws laws_;
  SimulatedModel model_;
  Nodes nodes_;
  comm::ExchangeOptions options_;  // of the main round, and of measured sizes
  std::int64_t rss_before_ = 0;
  std::int64_t hosted_ = 0;
  SimulatedResult main_;
  std::vector<comm::PlannedUnit> block_units_;  // of one block, without clients
  SimulationReport report_;
};

}  // namespace

ExitStatus run_simulate(comm::Communicator& communicator, const SimulateOptions& options) {
  const config::Config config = load_config(communicator, options.config, options.settings);
  check<ConfigError>(config.simulate.has_value(),
                     fmt::format("{}: no [simulate]: expected at least its clients, as "
                                 "--set simulate.clients=1000",
                                 config.file.string()));
  const nlohmann::json report = Simulation(communicator, config).run();
  if (communicator.rank() == 0)
    std::fputs((options.json ? report.dump() + "\n" : to_text(report)).c_str(), stdout);
  return ExitStatus::done;
}

}  // namespace fedspallm::app
