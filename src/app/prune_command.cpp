// SPDX-License-Identifier: Apache-2.0
// prune: reads and checks all inputs, then either forecasts (--dry-run), leaves a finished run alone, or
// runs.
#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/report/system.hpp"

#include <fmt/ranges.h>

#include "commands.hpp"
#include "forecast.hpp"
#include "gpu_forecast.hpp"
#include "prune_run.hpp"
#include "run_folder.hpp"
#include "setup.hpp"
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>

namespace fedspallm::app {

namespace {

std::int64_t tokens_of(const std::vector<EvaluationSet>& sets) {
  std::int64_t tokens = 0;
  for (const auto& set : sets) tokens += set.windows.samples * set.windows.length;
  return tokens;
}

/// The folder itself or its nearest existing parent.
std::filesystem::path existing_folder(std::filesystem::path folder) {
  std::error_code error;  // a loop of links, say: the folder itself is made, or not, later
  while (!folder.empty() && !std::filesystem::exists(folder, error) && folder != folder.parent_path())
    folder = folder.parent_path();
  return folder;
}

void check_resources(comm::Communicator& communicator, const config::Config& config,
                     const Forecast& expected) {
  const auto ranks_on_host = static_cast<int>(communicator.maximum(communicator.node_size()));
  communicator.together([&] {
    check_fits(expected, report::available_memory_bytes(), ranks_on_host,
               communicator.rank() == 0 ? report::free_disk_bytes(existing_folder(config.run.dir))
                                        : std::numeric_limits<std::int64_t>::max(),
               communicator.rank() == 0 ? disk_in_use(config.run.dir) : DiskBytes{});
  });
}

/// Facts that both sides know before any input is opened.
std::vector<std::string> differing_keys(const config::Config& config, const RunIdentity& identity) {
  auto now = identity_facts(config, "", std::vector<std::string>(config.clients.size()), "");
  auto recorded = identity.facts;
  for (auto* facts : {&now, &recorded})
    std::erase_if(*facts, [](const auto& fact) {
      return fact.first.ends_with("sha256") || fact.first == "kernel_set";
    });
  return differences(recorded, now);
}

/// Decided by the root for all ranks. @throws ConfigError when another configuration was finished there
bool already_finished(comm::Communicator& communicator, const config::Config& config) {
  std::string answer = "no";
  const store::RunPaths paths{config.run.dir};
  communicator.together([&] {
    std::error_code error;
    if (communicator.rank() != 0 || !std::filesystem::exists(paths.summary(), error) ||
        !std::filesystem::exists(paths.run_file(), error) || !store::BlockStore::of_run(paths).complete())
      return;
    answer = "yes";
    const auto identity = store::read_identity(paths.dir / "resume.json");
    if (!identity) return;
    const std::vector<std::string> differing = differing_keys(config, *identity);
    check<ConfigError>(differing.empty(),
                       fmt::format("{} holds a finished run of another configuration:\n  {}\nUse another "
                                   "run.dir, or --restart to replace it",
                                   paths.dir.string(), fmt::join(differing, "\n  ")));
  });
  return communicator.broadcast(std::move(answer)) == "yes";
}

/// Evaluations of this configuration that the finished run has not made, as the commands that make them now.
std::string missing_evaluations(const config::Config& config) {
  const store::RunPaths paths{config.run.dir};
  std::vector<config::Evaluation> made;
  try {
    std::ifstream file(paths.config());
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    made = config::parse(text, std::filesystem::absolute(paths.config())).evaluations;
  } catch (const ConfigError&) {
    return "";  // gone or changed by hand: nothing to compare with
  }
  std::string commands;
  for (const config::Evaluation& set : config.evaluations) {
    if (std::find(made.begin(), made.end(), set) != made.end()) continue;
    const bool merged = config.federation.aggregation != config::Aggregation::none;
    const std::string model =
        merged ? paths.model().string()
               : fmt::format("{} --client '{}'", paths.dir.string(), config.clients[0].name);
    commands += fmt::format("\n  fedspallm eval {} --tokens {} --sequence-length {}", model,
                            set.tokens.string(), set.sequence_length);
    if (set.samples) commands += fmt::format(" --samples {}", *set.samples);
  }
  return commands;
}

void print_finished(const config::Config& config) {
  std::fprintf(stderr, "fedspallm: %s holds a finished run; nothing to do (--restart starts over)\n",
               config.run.dir.c_str());
  if (const std::string commands = missing_evaluations(config); !commands.empty())
    std::fprintf(stderr, "fedspallm: it has not made these evaluations, which need no other run:%s\n",
                 commands.c_str());
}

comm::WatchdogOptions watchdog_options(const PruneOptions& options) {
  comm::WatchdogOptions result;
  result.phases = {phase::setup, phase::dense_evaluation, phase::pruning, phase::saving, phase::evaluation};
  if (options.watchdog) {
    result.lost_seconds = *options.watchdog;
    result.stuck_seconds = no_progress_seconds(*options.watchdog);
  }
  return result;
}

/// What each rank needs of its GPU, where it will have one.
std::string gpu_text(const comm::Communicator& communicator, const config::Config& config,
                     const model::ModelDirectory& model, int ranks) {
  const backend::CudaDevices visible = backend::visible_cuda_devices();
  const bool wanted = config.run.backend == config::BackendKind::cuda ||
                      (config.run.backend == config::BackendKind::automatic && !visible.devices.empty());
  if (!wanted) return "";
  const bool on_device = config.federation.aggregation != config::Aggregation::none &&
                         (config.federation.transport == config::TransportKind::nccl ||
                          config.federation.transport == config::TransportKind::automatic);
  const std::int64_t memory = gpu_memory_of_rank(visible, communicator.node_size());
  std::string text;
  for (int rank = 0; rank < ranks; ++rank)
    text += to_text(rank,
                    forecast_gpu(model.architecture(),
                                 gpu_work(config, model, ranks_of_clients(config, ranks), rank, on_device)),
                    memory);
  return text;
}

/// Opens the inputs, then forecasts or prunes.
ExitStatus prune(comm::Communicator& communicator, Signals& signals, const PruneOptions& options,
                 const config::Config& config, comm::Watchdog* watchdog, RunStatus& status) {
  Inputs inputs = open_inputs(communicator, config, options.dry_run ? options.assume_ranks : 0);
  const Nodes nodes = nodes_of_run(communicator);
  const bool assumed = options.dry_run && options.assume_ranks > 0;  // who knows on which hosts
  Forecast expected;
  communicator.together([&] {
    const int ranks = assumed ? options.assume_ranks : communicator.size();
    expected = forecast(config, *inputs.model, ranks, tokens_of(inputs.evaluations),
                        assumed ? std::vector<int>() : nodes.leaders);
  });
  if (options.dry_run && communicator.rank() == 0) {
    std::fputs("The configuration, every key:\n\n", stdout);  // before the forecast: clients may be many
    std::fputs((config::to_toml(config) + "\n").c_str(), stdout);
    std::fputs(to_text(expected).c_str(), stdout);
    const int ranks = static_cast<int>(expected.ranks.size());
    std::fputs(gpu_text(communicator, config, *inputs.model, ranks).c_str(), stdout);
    std::fflush(stdout);
    for (const std::string& warning : inputs.warnings)
      std::fprintf(stderr, "fedspallm: warning: %s\n", warning.c_str());
  }
  if (!assumed) check_resources(communicator, config, expected);
  if (options.dry_run) return ExitStatus::done;
  PruneRun(communicator, config, std::move(inputs), options, signals, *watchdog, status).run();
  return ExitStatus::done;
}

}  // namespace

double no_progress_seconds(double lost_seconds) {
  constexpr double kStuckPerLost = 4;
  const comm::WatchdogOptions defaults;  // what is asked for as by default is as by default
  const double shortened = kStuckPerLost * lost_seconds;
  return lost_seconds < defaults.lost_seconds ? shortened : std::max(defaults.stuck_seconds, shortened);
}

ExitStatus run_prune(comm::Communicator& communicator, Signals& signals, const PruneOptions& options) {
  const config::Config config = load_config(communicator, options.config, options.settings);
  config::check_prunable(config);
  communicator.together([&] {
    if (communicator.rank() == 0) check_run_folder(config);
  });
  if (!options.dry_run && !options.restart && already_finished(communicator, config)) {
    if (communicator.rank() == 0) print_finished(config);
    return ExitStatus::done;
  }
  RunStatus status(config.run.dir, communicator.host(), communicator.size());
  if (options.dry_run) return prune(communicator, signals, options, config, nullptr, status);
  comm::Watchdog watchdog(communicator, watchdog_options(options), [&](const comm::Loss& loss) {
    if (communicator.rank() == 0) status.ended(loss.status(), loss.message);
  });
  const Signals::Companions companions(signals, [&](const std::string& why) { watchdog.stop(why); });
  try {
    const ExitStatus result = prune(communicator, signals, options, config, &watchdog, status);
    if (communicator.rank() == 0) status.ended(result, "");
    watchdog.finish();
    return result;
  } catch (...) {
    const Error error = current_error();
    if (communicator.rank() == 0) status.ended(error.status(), error.what());
    watchdog.finish(error);
    throw;
  }
}

}  // namespace fedspallm::app
