// SPDX-License-Identifier: Apache-2.0
// bench: pieces of the program beside their limits, all measured in the same run.
#include "fedspallm/aggregate/bench.hpp"
#include "fedspallm/backend/bench.hpp"
#include "fedspallm/base/thread_pool.hpp"
#include "fedspallm/report/system.hpp"
#include "fedspallm/report/table.hpp"

#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "setup.hpp"
#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>

namespace fedspallm::app {

namespace {

constexpr std::array<std::string_view, 5> kBackendBenches = {"forward", "hessian", "factorization", "sweep",
                                                             "sparsegpt"};

nlohmann::json backend_rows(backend::Backend& backend, const BenchOptions& options, int threads) {
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& row : backend::run_backend_bench(backend, options.name, {.threads = threads}))
    rows.push_back({{"name", row.name},
                    {"shape", row.shape},
                    {"per_block", row.per_block},
                    {"seconds", row.seconds},
                    {"rate", row.rate()},
                    {"limit", row.limit},
                    {"limit_rate", row.limit_rate},
                    {"share", row.share()}});
  return rows;
}

nlohmann::json merge_rows(int threads) {
  ThreadPool pool(threads);
  const aggregate::MergeBenchReport report = aggregate::bench_merge(aggregate::bench_shapes(), {}, &pool);
  nlohmann::json rows = nlohmann::json::array();
  const auto add = [&](const aggregate::MergeBenchResult& result, const char* name,
                       const aggregate::MergeTiming& timing) {
    const double limit = std::max(timing.triad_seconds, timing.in_cache_seconds);
    rows.push_back(
        {{"name", result.shape.name + ", " + name},
         {"shape", fmt::format("{} x {}", result.shape.rows, result.shape.cols)},
         {"seconds", timing.seconds},
         {"rate", timing.bytes / timing.seconds},
         {"limit", timing.triad_seconds >= timing.in_cache_seconds ? "triad" : "same kernel in cache"},
         {"limit_rate", timing.bytes / limit},
         {"share", limit / timing.seconds}});
  };
  for (const auto& result : report.results) {
    add(result, "add one by one", result.add_one_by_one);
    add(result, "add at once", result.add_at_once);
    add(result, "finish", result.finish);
    add(result, "whole", result.whole);
  }
  return rows;
}

void print_text(const nlohmann::json& rows) {
  report::TextTable table({"what", "shape", "seconds", "Grate/s", "limit", "Glimit/s", "share"});
  for (const auto& row : rows)
    table.add_row({row["name"], row["shape"], fmt::format("{:.6f}", row["seconds"].get<double>()),
                   fmt::format("{:.1f}", row["rate"].get<double>() / 1e9), row["limit"],
                   fmt::format("{:.1f}", row["limit_rate"].get<double>() / 1e9),
                   fmt::format("{:.0f} %", 100 * row["share"].get<double>())});
  std::fputs(table.text().c_str(), stdout);
}

}  // namespace

ExitStatus run_bench(const BenchOptions& options) {
  const int threads =
      options.threads > 0 ? options.threads : report::threads_for_rank(report::affinity_cores(), 1);
  const bool backend_bench =
      std::find(kBackendBenches.begin(), kBackendBenches.end(), options.name) != kBackendBenches.end();
  check<ConfigError>(
      backend_bench || options.name == "aggregate",
      fmt::format("bench: unknown name '{}'; expected forward, hessian, factorization, sweep, sparsegpt "
                  "(all four) or aggregate",
                  options.name));
  const auto backend = backend_bench ? make_backend(backend_kind(options.backend), threads)
                                     : std::unique_ptr<backend::Backend>();
  const nlohmann::json rows = backend ? backend_rows(*backend, options, threads) : merge_rows(threads);
  if (options.json)
    std::puts(nlohmann::json({{"format_version", 1},
                              {"bench", options.name},
                              {"threads", threads},
                              {"kernel_set", backend ? backend->kernel_set() : "cpu"},
                              {"cpu", report::cpu_model()},
                              {"version", version_text()},
                              {"rows", rows}})
                  .dump()
                  .c_str());
  else
    print_text(rows);
  return ExitStatus::done;
}

}  // namespace fedspallm::app
