// SPDX-License-Identifier: Apache-2.0
// bench checkpoint: durable files beside plain ones, and what a client's saved state spares: the forward pass
// that would make it again.
#include "fedspallm/store/bench.hpp"

#include "bench_compute.hpp"
#include "bench_rows.hpp"
#include <filesystem>
#include <map>

namespace fedspallm::app {

namespace {

constexpr const char* kRecompute = "state recomputed, one block forward";

/// Each piece of one decoder block's forward pass, as often as the block needs it.
nlohmann::json recompute_row(backend::Backend& backend, const BenchOptions& options, int threads) {
  const backend::BenchOptions sizes = backend_bench_sizes(options, threads);
  double flop = 0, seconds = 0, limit_rate = 0;
  for (const auto& row : backend::run_backend_bench(backend, "forward", sizes)) {
    seconds += row.per_block * row.seconds;
    if (row.limit != "sgemm") continue;
    flop += row.per_block * row.work;
    limit_rate = row.limit_rate;
  }
  return bench_row(kRecompute, fmt::format("{} x {}", sizes.sequences, sizes.sequence_length), "flop", flop,
                   seconds, "sgemm", flop / limit_rate);
}

store::CheckpointBenchOptions sizes_of(const BenchOptions& options, int threads) {
  store::CheckpointBenchOptions sizes;
  const backend::BenchOptions block = backend_bench_sizes(options, threads);
  sizes.hidden = block.hidden;
  sizes.intermediate = block.intermediate;
  sizes.heads = block.heads;
  sizes.kv_heads = block.kv_heads;
  sizes.head_dim = block.head_dim;
  sizes.tokens = block.sequences * block.sequence_length;
  if (!options.quick) return sizes;
  sizes.repeats = 1;
  sizes.model_blocks = 2;
  sizes.vocabulary = 32;
  return sizes;
}

/// Numbers behind rulings.md 19: a saved state costs every run; recomputing costs a resumed one only, but
/// for every block before the position.
std::string compare_resume(const std::map<std::string, double>& seconds) {
  const double written = seconds.at("client state, written"), durable = seconds.at("client state, durable");
  const double read = seconds.at("client state, read"), forward = seconds.at(kRecompute);
  return fmt::format(
      "one client: saving a state holds it up {:.1f} ms and is durable after {:.1f} ms ({:.1f} % and {:.1f} "
      "% "
      "of the {:.1f} ms\nof one block's forward pass); resuming before block b reads {:.1f} ms of state, or "
      "recomputes b x {:.1f} ms\n",
      written * 1e3, durable * 1e3, 100 * written / forward, 100 * durable / forward, forward * 1e3,
      read * 1e3, forward * 1e3);
}

}  // namespace

BenchReport checkpoint_bench(backend::Backend& backend, const BenchOptions& options, int threads) {
  const std::filesystem::path folder =
      options.dir.empty() ? std::filesystem::temp_directory_path() : std::filesystem::path(options.dir);
  check<ConfigError>(
      std::filesystem::is_directory(folder),
      fmt::format("bench checkpoint: --dir {}: expected a folder that exists", folder.string()));
  BenchReport report;
  report.facts["folder"] = folder.string();
  std::map<std::string, double> seconds;
  for (const auto& row : store::bench_checkpoint(folder, sizes_of(options, threads))) {
    report.rows.push_back(bench_row(row.name, row.shape, "bytes", static_cast<double>(row.bytes), row.seconds,
                                    row.limit, row.limit_seconds));
    seconds[row.name] = row.seconds;
  }
  report.rows.push_back(recompute_row(backend, options, threads));
  seconds[kRecompute] = report.rows.back()["seconds"];
  report.remarks = compare_resume(seconds);
  return report;
}

}  // namespace fedspallm::app
