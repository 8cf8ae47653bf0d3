// SPDX-License-Identifier: Apache-2.0
// Purpose: the command line and the one place where errors become messages and exit statuses.
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/heap.hpp"
#include "fedspallm/comm/start.hpp"

#include <CLI/CLI.hpp>

#include "commands.hpp"
#include "signals.hpp"
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <sstream>
#include <thread>

namespace {

using namespace fedspallm;       // NOLINT
using namespace fedspallm::app;  // NOLINT

constexpr const char* kFooter = R"(Exit status (of every rank):
  0 done        1 a check failed (inspect)       2 bad input: config, model or data
  3 started wrongly (see the message)            4 not enough memory or disk
  5 run directory in use by another job          6 a rank was lost or stuck
  7 numerical error                             75 stopped on a signal, resumable)";

/// One of them is set by the chosen subcommand; run after parsing, so that --help never starts MPI.
struct Chosen {
  std::function<ExitStatus(comm::Communicator&, Signals&)> with_signals;
  std::function<ExitStatus(comm::Communicator&)> with_mpi;
  std::function<ExitStatus()> alone;
};

/// "" or what is wrong with a number of seconds (CLI::Range takes NaN).
std::string bad_seconds(const std::string& text) {
  const double value = std::strtod(text.c_str(), nullptr);
  return value >= 0 && value <= 1e6 ? "" : fmt::format("found {}, expected seconds from 0 to 1000000", text);
}

void add_prune(CLI::App& app, PruneOptions& options, Chosen& chosen) {
  CLI::App* command = app.add_subcommand("prune", "Prune a model federatedly (alone or under mpirun / srun)");
  command->add_option("CONFIG", options.config, "configuration file (TOML)")->required();
  command->add_option("--set", options.settings, "KEY=VALUE: overrides a key, e.g. --set prune.sparsity=0.6")
      ->allow_extra_args(false);
  CLI::Option* dry_run = command->add_flag(
      "--dry-run", options.dry_run,
      "print the configuration with all defaults, memory, disk and bytes on the wire per rank; "
      "refuse what cannot fit");
  command
      ->add_option("--assume-ranks", options.assume_ranks,
                   "with --dry-run: forecast for this many ranks, without the token files that are elsewhere")
      ->needs(dry_run)
      ->check(CLI::Range(1, 1000000));
  command->add_flag("--restart", options.restart, "start over, even when the run is finished");
  command->add_flag("--force-resume", options.force_resume,
                    "go on with an unfinished run although what decides its result has changed");
  command
      ->add_option("--watchdog", options.watchdog,
                   "seconds without a sign of life after which a rank counts as lost (default 30; 0 = never, "
                   "for debuggers). One that lives but gets nowhere counts as stuck after 600 s; after four "
                   "times this where it is below 30 or above 150")
      ->check(&bad_seconds);
  command->add_flag("--quiet", options.quiet, "warnings and the final table only");
  command->callback([&] {
    chosen.with_signals = [&](comm::Communicator& communicator, Signals& signals) {
      return run_prune(communicator, signals, options);
    };
  });
}

void add_simulate(CLI::App& app, SimulateOptions& options, Chosen& chosen) {
  CLI::App* command = app.add_subcommand(
      "simulate",
      "A round of up to 1,000,000 virtual clients: real plan, wire and merge, made-up updates, "
      "virtual time; forecasts (alone or under mpirun / srun)");
  command->add_option("CONFIG", options.config, "configuration file (TOML) with [simulate]")->required();
  command
      ->add_option("--set", options.settings, "KEY=VALUE: overrides a key, e.g. --set simulate.clients=1000")
      ->allow_extra_args(false);
  command->add_flag("--json", options.json, "one JSON object on standard output");
  command->callback([&] {
    chosen.with_mpi = [&](comm::Communicator& communicator) { return run_simulate(communicator, options); };
  });
}

void add_eval(CLI::App& app, EvalOptions& options, Chosen& chosen) {
  CLI::App* command =
      app.add_subcommand("eval", "Perplexity of a model directory, as transformers computes it");
  command->add_option("MODEL_DIR", options.model, "model directory; with --client a run directory")
      ->required();
  command->add_option("--tokens", options.tokens, "token files (HDF5)")->required();
  command->add_option("--sequence-length", options.sequence_length, "tokens per window")
      ->capture_default_str();
  command->add_option("--samples", options.samples, "windows per file (default: all)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 31));
  command->add_option("--client", options.client, "a stand-alone client of a run with run.keep_clients");
  command->add_option("--backend", options.backend, "auto, cpu, cuda or reference")->capture_default_str();
  command->add_flag(
      "--sparse", options.sparse,
      "once more with the pruned linears as sparse matrices (cuSPARSE on a GPU), times of both");
  command->add_flag("--json", options.json, "one JSON object on standard output");
  command->callback([&] {
    chosen.with_mpi = [&](comm::Communicator& communicator) { return run_eval(communicator, options); };
  });
}

void add_files(CLI::App& app, InspectOptions& inspect, ExportOptions& exporting, UnpackOptions& unpacking,
               Chosen& chosen) {
  CLI::App* command =
      app.add_subcommand("inspect", "Recount a run or a model: sparsity, votes, clients, provenance");
  command->add_option("PATH", inspect.path, "run.h5, run directory or model directory")->required();
  command->add_flag("--json", inspect.json, "one JSON object on standard output");
  command->callback([&] { chosen.alone = [&] { return run_inspect(inspect); }; });

  command = app.add_subcommand("export", "Write a Hugging Face directory (or a bitmask file) from a run");
  command->add_option("RUN_DIR", exporting.run_dir, "run directory")->required();
  command->add_option("--out", exporting.out, "output directory")->required();
  command->add_option("--format", exporting.format, "huggingface or bitmask")->capture_default_str();
  command->add_option("--client", exporting.client, "a stand-alone client of a run with run.keep_clients");
  command->add_option("--model", exporting.model,
                      "the dense model, where it is not at the path that the run recorded");
  command->callback([&] { chosen.alone = [&] { return run_export(exporting); }; });

  command = app.add_subcommand("unpack", "Turn a bitmask file back into a Hugging Face directory");
  command->add_option("FILE", unpacking.file, "model.fspm")->required();
  command->add_option("--model", unpacking.model, "the dense model directory");
  command->add_option("--out", unpacking.out, "output directory")->required();
  command->callback([&] { chosen.alone = [&] { return run_unpack(unpacking); }; });
}

void add_machine(CLI::App& app, BenchOptions& bench, Chosen& chosen) {
  CLI::App* command = app.add_subcommand("bench", "Measure pieces beside their limits on this machine");
  command
      ->add_option(
          "NAME", bench.name,
          "forward, hessian, factorization, sweep, sparsegpt (all four), spmm, aggregate, checkpoint, "
          "transport (alone or under mpirun / srun)")
      ->required();
  command->add_option("--backend", bench.backend, "auto, cpu, cuda or reference (not: aggregate, transport)")
      ->capture_default_str();
  command
      ->add_option("--products", bench.products,
                   "f32, f16 or bf16, as run.products (not: aggregate, transport)")
      ->capture_default_str();
  command->add_option("--threads", bench.threads, "threads (default: the cores given)")
      ->check(CLI::Range(1, 4096));
  command->add_option("--dir", bench.dir, "checkpoint: where to write (default: the temporary folder)");
  command
      ->add_option("--clients", bench.clients,
                   "transport: virtual clients, ascending (default: 1 to 64; some 3 MB each)")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  command->add_flag("--quick", bench.quick, "tiny shapes, once each: shows that it runs, measures nothing");
  command->add_flag("--json", bench.json, "one JSON object on standard output");
  command->callback([&] {
    if (bench_needs_mpi(bench)) {
      chosen.with_mpi = [&](comm::Communicator& communicator) { return run_bench(&communicator, bench); };
    } else {
      chosen.alone = [&] { return run_bench(nullptr, bench); };
    }
  });

  command = app.add_subcommand("doctor", "What this machine can do: MPI, launcher, devices, locks, space");
  command->callback(
      [&] { chosen.with_mpi = [](comm::Communicator& communicator) { return run_doctor(communicator); }; });
}

int print_error(const std::string& message, bool speaks, ExitStatus status) {
  const char* kind = status == ExitStatus::stopped ? "" : "error: ";
  if (speaks) std::fprintf(stderr, "fedspallm: %s%s\n", kind, message.c_str());
  return static_cast<int>(status);
}

constexpr double kOthersSeconds = 60;  // to come to an error that all ranks share

/// This rank's error alone: others wait for a rank that does not come. So it is printed at once, and all end.
[[noreturn]] void end_all(const comm::Communicator& communicator, const Error& error, bool printed) {
  const std::string where = fmt::format("rank {} on {}: ", communicator.rank(), communicator.host());
  print_error(where + error.what(), !printed, error.status());
  comm::MpiSession::abort(error.status());
}

/// Runs what needs MPI. An error of ours that reaches this point is the same on all ranks
/// (Communicator::agree, Exchange::fail; prune's watchdog sees to it), so rank 0 alone prints it, and all
/// ranks meet once more before they leave with its status. Should they not meet, or is it no error of ours,
/// it was one rank's alone.
int run_with_mpi(int argc, char** argv, const Chosen& chosen) {
  std::optional<Signals> signals;  // before MPI: its threads must have them blocked, too
  if (chosen.with_signals) signals.emplace();
  comm::MpiSession session(argc, argv);
  comm::Communicator communicator;
  try {
    return static_cast<int>(signals ? chosen.with_signals(communicator, *signals)
                                    : chosen.with_mpi(communicator));
  } catch (const Error& error) {
    const int status = print_error(error.what(), communicator.rank() == 0, error.status());
    if (signals)
      communicator.barrier();
    else if (!communicator.barrier_within(kOthersSeconds))
      end_all(communicator, error, communicator.rank() == 0);
    return status;
  } catch (...) {
    const Error error = current_error();
    if (communicator.size() > 1) end_all(communicator, error, false);
    return print_error(error.what(), true, error.status());
  }
}

bool speaks() {
  return comm::speaks_for_all([](const char* name) { return std::getenv(name); });
}

int run(int argc, char** argv) {
  CLI::App app("fedspallm prunes large language models federatedly (FedSpaLLM, arXiv 2410.14852)",
               "fedspallm");
  app.require_subcommand(1);
  app.footer(kFooter);
  app.set_version_flag("--version", version_text());
  PruneOptions prune;
  EvalOptions eval;
  InspectOptions inspect;
  ExportOptions exporting;
  UnpackOptions unpacking;
  BenchOptions bench;
  SimulateOptions simulate;
  Chosen chosen;
  add_prune(app, prune, chosen);
  add_eval(app, eval, chosen);
  add_files(app, inspect, exporting, unpacking, chosen);
  add_machine(app, bench, chosen);
  add_simulate(app, simulate, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {  // every process sees it, and none knows of the others
    std::ostringstream out, errors;
    const int code = app.exit(error, out, errors);
    if (speaks()) {
      std::fputs(out.str().c_str(), stdout);
      std::fputs(errors.str().c_str(), stderr);
    } else if (code != 0) {  // mpirun ends all as soon as one fails: not before the one has spoken
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
    return code == 0 ? 0 : static_cast<int>(ExitStatus::bad_input);
  }
  return chosen.alone ? static_cast<int>(chosen.alone()) : run_with_mpi(argc, argv, chosen);
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  try {
    return run(argc, argv);
  } catch (const LaunchError& error) {  // every process sees it, and none knows of the others
    return print_error(error.what(), speaks(), error.status());
  } catch (...) {
    const Error error = current_error();
    return print_error(error.what(), true, error.status());
  }
}
