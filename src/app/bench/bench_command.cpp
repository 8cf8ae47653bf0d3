// SPDX-License-Identifier: Apache-2.0
// bench: pieces of the program beside their limits, all measured in the same run.
#include "fedspallm/base/error.hpp"
#include "fedspallm/report/system.hpp"
#include "fedspallm/report/table.hpp"

#include "../setup.hpp"
#include "bench_rows.hpp"
#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>

namespace fedspallm::app {

namespace {

constexpr const char* kTransport = "transport";
constexpr std::array<std::string_view, 9> kNames = {"forward",   "hessian",    "factorization",
                                                    "sweep",     "sparsegpt",  "spmm",
                                                    "aggregate", "checkpoint", kTransport};

void print_text(const BenchReport& report) {
  report::TextTable table({"what", "shape", "seconds", "G/s", "of", "limit", "limit G/s", "share"});
  for (const auto& row : report.rows)
    table.add_row({row["name"], row["shape"], fmt::format("{:.6f}", row["seconds"].get<double>()),
                   fmt::format("{:.2f}", row["rate"].get<double>() / 1e9), row["unit"], row["limit"],
                   fmt::format("{:.2f}", row["limit_rate"].get<double>() / 1e9),
                   fmt::format("{:.0f} %", 100 * row["share"].get<double>())});
  std::fputs(table.text().c_str(), stdout);
  if (!report.remarks.empty()) std::fputs(("\n" + report.remarks).c_str(), stdout);
}

void print(const BenchOptions& options, const BenchReport& report, int threads,
           const std::string& kernel_set) {
  if (!options.json) return print_text(report);
  nlohmann::json object = {{"format_version", 1},       {"bench", options.name},
                           {"quick", options.quick},    {"threads", threads},
                           {"kernel_set", kernel_set},  {"cpu", report::cpu_model()},
                           {"version", version_text()}, {"rows", report.rows}};
  object.update(report.facts);
  std::puts(object.dump().c_str());
}

/// Options that the named benchmark would ignore are refused.
void check_options(const BenchOptions& options) {
  check<ConfigError>(std::find(kNames.begin(), kNames.end(), options.name) != kNames.end(),
                     fmt::format("bench: unknown name '{}'; expected forward, hessian, factorization, sweep, "
                                 "sparsegpt (all four), spmm, aggregate, checkpoint or transport",
                                 options.name));
  check<ConfigError>(options.dir.empty() || options.name == "checkpoint",
                     fmt::format("bench {}: --dir is for checkpoint only", options.name));
  check<ConfigError>(options.clients.empty() || options.name == kTransport,
                     fmt::format("bench {}: --clients is for transport only", options.name));
  check<ConfigError>(std::is_sorted(options.clients.begin(), options.clients.end()),
                     fmt::format("bench {}: --clients: expected ascending numbers", options.name));
}

}  // namespace

nlohmann::json bench_row(const std::string& name, const std::string& shape, const char* unit, double work,
                         double seconds, const std::string& limit, double limit_seconds) {
  return {{"name", name},
          {"shape", shape},
          {"unit", unit},
          {"work", work},
          {"seconds", seconds},
          {"rate", work / seconds},
          {"limit", limit},
          {"limit_rate", work / limit_seconds},
          {"share", limit_seconds / seconds}};
}

bool bench_needs_mpi(const BenchOptions& options) {
  return options.name == kTransport;
}

ExitStatus run_bench(comm::Communicator* communicator, const BenchOptions& options) {
  check_options(options);
  if (options.name == kTransport) {
    require(communicator != nullptr, "bench transport is run with a communicator");
    const BenchReport report = transport_bench(*communicator, options);
    if (communicator->rank() == 0) print(options, report, 1, "cpu");
    return ExitStatus::done;
  }
  const int threads =
      options.threads > 0 ? options.threads : report::threads_for_rank(report::affinity_cores(), 1);
  if (options.name == "aggregate") {
    print(options, aggregate_bench(options, threads), threads, "cpu");
    return ExitStatus::done;
  }
  const auto backend =
      make_backend(backend_kind(options.backend), threads, 0, products_kind(options.products));
  const BenchReport report = options.name == "checkpoint" ? checkpoint_bench(*backend, options, threads)
                                                          : backend_bench(*backend, options, threads);
  print(options, report, threads, backend->kernel_set());
  return ExitStatus::done;
}

}  // namespace fedspallm::app
