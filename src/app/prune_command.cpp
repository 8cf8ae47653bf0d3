// SPDX-License-Identifier: Apache-2.0
// prune: reads and checks all inputs, then either forecasts (--dry-run), leaves a finished run alone, or
// runs.
#include "fedspallm/report/system.hpp"

#include "commands.hpp"
#include "forecast.hpp"
#include "prune_run.hpp"
#include <cstdio>
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
  while (!folder.empty() && !std::filesystem::exists(folder) && folder != folder.parent_path())
    folder = folder.parent_path();
  return folder;
}

void check_resources(comm::Communicator& communicator, const config::Config& config,
                     const Forecast& expected) {
  const auto ranks_on_host = static_cast<int>(communicator.maximum(communicator.node_size()));
  communicator.together([&] {
    check_fits(expected, report::available_memory_bytes(), ranks_on_host,
               communicator.rank() == 0 ? report::free_disk_bytes(existing_folder(config.run.dir))
                                        : std::numeric_limits<std::int64_t>::max());
  });
}

/// Decided by the root for all ranks.
bool already_finished(comm::Communicator& communicator, const config::Config& config) {
  std::string answer = "no";
  const store::RunPaths paths{config.run.dir};
  communicator.together([&] {
    if (communicator.rank() == 0 && std::filesystem::exists(paths.summary()) &&
        std::filesystem::exists(paths.run_file()) && store::BlockStore::of_run(paths).complete())
      answer = "yes";
  });
  return communicator.broadcast(std::move(answer)) == "yes";
}

}  // namespace

ExitStatus run_prune(comm::Communicator& communicator, const PruneOptions& options) {
  const config::Config config = load_config(communicator, options.config, options.settings);
  if (!options.dry_run && !options.restart && already_finished(communicator, config)) {
    if (communicator.rank() == 0)
      std::fprintf(stderr, "fedspallm: %s holds a finished run; nothing to do (--restart starts over)\n",
                   config.run.dir.c_str());
    return ExitStatus::done;
  }
  Inputs inputs = open_inputs(communicator, config);
  Forecast expected;
  communicator.together([&] {
    const int ranks =
        options.dry_run && options.assume_ranks > 0 ? options.assume_ranks : communicator.size();
    expected = forecast(config, *inputs.model, ranks, tokens_of(inputs.evaluations));
  });
  if (options.dry_run && communicator.rank() == 0) {
    std::fputs(to_text(expected).c_str(), stdout);
    std::fflush(stdout);
  }
  if (!(options.dry_run && options.assume_ranks > 0)) check_resources(communicator, config, expected);
  if (options.dry_run) return ExitStatus::done;
  PruneRun(communicator, config, std::move(inputs), options.quiet).run();
  return ExitStatus::done;
}

}  // namespace fedspallm::app
