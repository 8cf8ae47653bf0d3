// SPDX-License-Identifier: Apache-2.0
// bench forward, hessian, factorization, sweep, sparsegpt, aggregate.
#include "bench_compute.hpp"

#include "fedspallm/aggregate/bench.hpp"
#include "fedspallm/base/thread_pool.hpp"

#include "bench_rows.hpp"
#include <algorithm>

namespace fedspallm::app {

backend::BenchOptions backend_bench_sizes(const BenchOptions& options, int threads) {
  backend::BenchOptions sizes;
  sizes.threads = threads;
  if (!options.quick) return sizes;
  sizes.repetitions = 1;
  sizes.hidden = 24;
  sizes.intermediate = 40;
  sizes.heads = 3;
  sizes.kv_heads = 1;
  sizes.head_dim = 8;
  sizes.sequences = 2;
  sizes.sequence_length = 16;
  sizes.block_size = 8;
  sizes.limit_size = 64;
  sizes.triad_bytes = 1 << 16;
  return sizes;
}

BenchReport backend_bench(backend::Backend& backend, const BenchOptions& options, int threads) {
  BenchReport report;
  for (const auto& row :
       backend::run_backend_bench(backend, options.name, backend_bench_sizes(options, threads))) {
    if (!row.lacks.empty()) {
      report.facts["not_measured"].push_back(
          {{"name", row.name}, {"shape", row.shape}, {"lacks", row.lacks}});
      report.remarks += fmt::format("{} ({}): not measured: {}\n", row.name, row.shape, row.lacks);
      continue;
    }
    nlohmann::json object = bench_row(row.name, row.shape, row.limit == "triad" ? "bytes" : "flop", row.work,
                                      row.seconds, row.limit, row.work / row.limit_rate);
    object["per_block"] = row.per_block;
    report.rows.push_back(std::move(object));
  }
  return report;
}

BenchReport aggregate_bench(const BenchOptions& options, int threads) {
  ThreadPool pool(threads);
  aggregate::MergeBenchOptions sizes;
  if (options.quick) sizes.repeats = 1;
  const std::vector<aggregate::MergeShape> shapes =
      options.quick ? std::vector<aggregate::MergeShape>{{"tiny", 48, 40}} : aggregate::bench_shapes();
  BenchReport report;
  const auto add = [&](const aggregate::MergeBenchResult& result, const char* name,
                       const aggregate::MergeTiming& timing) {
    report.rows.push_back(bench_row(
        result.shape.name + ", " + name, fmt::format("{} x {}", result.shape.rows, result.shape.cols),
        "bytes", timing.bytes, timing.seconds,
        timing.triad_seconds >= timing.in_cache_seconds ? "triad" : "same kernel in cache",
        std::max(timing.triad_seconds, timing.in_cache_seconds)));
  };
  for (const auto& result : aggregate::bench_merge(shapes, sizes, &pool).results) {
    add(result, "add one by one", result.add_one_by_one);
    add(result, "add at once", result.add_at_once);
    add(result, "finish", result.finish);
    add(result, "whole", result.whole);
  }
  return report;
}

}  // namespace fedspallm::app
