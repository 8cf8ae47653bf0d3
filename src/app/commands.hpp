// SPDX-License-Identifier: Apache-2.0
// Purpose: one function per subcommand and the options that the command line gives it. Each returns the exit
// status or throws an Error; main() alone prints errors.
#pragma once

#include "fedspallm/base/error.hpp"
#include "fedspallm/comm/communicator.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::app {

struct PruneOptions {
  std::string config;
  std::vector<std::string> settings;
  bool dry_run = false;
  int assume_ranks = 0;  // dry run for another number of ranks; 0 = this one's
  bool restart = false;
  bool force_resume = false;       // also where what decides the result has changed
  std::optional<double> watchdog;  // seconds without a sign of life after which a rank is lost; 0 = never
  bool quiet = false;
};
struct EvalOptions {
  std::string model;
  std::vector<std::string> tokens;
  std::int64_t sequence_length = 512;
  std::optional<std::int64_t> samples;
  std::optional<std::string> client;  // MODEL_DIR is then a run directory
  std::string backend = "auto";
  bool sparse = false;  // also with pruned linears stored and multiplied by their non-zeros
  bool json = false;
};
struct InspectOptions {
  std::string path;
  bool json = false;
};
struct ExportOptions {
  std::string run_dir;
  std::string out;
  std::string format = "huggingface";
  std::optional<std::string> client;
  std::optional<std::string> model;
};
struct UnpackOptions {
  std::string file;
  std::string model;
  std::string out;
};
struct SimulateOptions {
  std::string config;
  std::vector<std::string> settings;
  bool json = false;
};
struct BenchOptions {
  std::string name;
  std::string backend = "auto";
  std::string products = "f32";
  int threads = 0;
  std::string dir;           // checkpoint: where to write; "" = the temporary folder
  std::vector<int> clients;  // transport: virtual clients of the scaling rows; empty = 1 to 64
  bool quick = false;        // tiny shapes, once each: shows that it runs, measures nothing
  bool json = false;
};

class Signals;
ExitStatus run_prune(comm::Communicator& communicator, Signals& signals, const PruneOptions& options);
/// After so long without progress of any rank a run counts as stuck, where a rank counts as lost after
/// `lost_seconds` (--watchdog): 600 s from the default of 30 s on, four times as long as a shorter limit.
[[nodiscard]] double no_progress_seconds(double lost_seconds);
ExitStatus run_eval(comm::Communicator& communicator, const EvalOptions& options);
ExitStatus run_inspect(const InspectOptions& options);
ExitStatus run_export(const ExportOptions& options);
ExitStatus run_unpack(const UnpackOptions& options);
/// Whether all ranks measure together; the other benchmarks run in one process.
[[nodiscard]] bool bench_needs_mpi(const BenchOptions& options);
/// @param communicator  null unless bench_needs_mpi()
ExitStatus run_bench(comm::Communicator* communicator, const BenchOptions& options);
/// Collective.
ExitStatus run_simulate(comm::Communicator& communicator, const SimulateOptions& options);
ExitStatus run_doctor(comm::Communicator& communicator);

/// "fedspallm 0.1.0 (git abc1234abc12-dirty), Open MPI v4.1.4, HDF5 1.10.8, CUDA off"
[[nodiscard]] std::string version_text();

}  // namespace fedspallm::app
