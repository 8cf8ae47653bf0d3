// SPDX-License-Identifier: Apache-2.0
// bench transport: every way to bring updates to the root, and what one more client costs.
#include "fedspallm/comm/bench.hpp"

#include "bench_rows.hpp"

namespace fedspallm::app {

namespace {

nlohmann::json timing_row(const std::string& name, const std::string& shape, std::int64_t update_bytes,
                          const comm::Timing& timing) {
  return bench_row(name, shape, "bytes", static_cast<double>(update_bytes), timing.seconds, timing.limit(),
                   timing.limit_seconds());
}

void add_transports(BenchReport& report, const comm::TransportBench& bench) {
  const std::string shape = fmt::format("{} x {}, {} clients", bench.rows, bench.cols, bench.clients);
  for (const comm::TransportTiming& row : bench.timings) {
    nlohmann::json object = timing_row(row.name, shape, bench.update_bytes, row.timing);
    object["root_bytes"] = row.root_bytes;
    object["same_bits"] = row.same_bits;
    report.rows.push_back(std::move(object));
    if (!row.same_bits) report.remarks += fmt::format("{}: OTHER BITS than gather\n", row.name);
  }
  report.facts["ranks"] = bench.ranks;
  report.facts["copy_bytes_per_second"] = bench.copy_bytes_per_second;
  report.facts["link_bytes_per_second"] = bench.link_bytes_per_second;
  report.facts["add_seconds_per_weight"] = bench.add_seconds_per_weight;
  report.facts["add_tiles_seconds_per_byte"] = bench.add_tiles_seconds_per_byte;
  report.remarks += fmt::format(
      "{} ranks; plain messages {}, memory copy {:.2f} GB/s; one core adds an update at {:.2f} ns a weight, "
      "tiles at {:.2f} GB/s\n",
      bench.ranks,
      bench.ranks > 1 ? fmt::format("{:.2f} GB/s", bench.link_bytes_per_second * 1e-9) : "none (one rank)",
      bench.copy_bytes_per_second * 1e-9, bench.add_seconds_per_weight * 1e9,
      1e-9 / bench.add_tiles_seconds_per_byte);
}

void add_scaling(BenchReport& report, const comm::ScalingBenchOptions& options,
                 const std::vector<comm::ScalingSeries>& all) {
  nlohmann::json fits = nlohmann::json::array();
  for (const comm::ScalingSeries& series : all) {
    for (const comm::ScalingPoint& point : series.points) {
      nlohmann::json object =
          timing_row(fmt::format("{} and merge, {} clients", series.transport, point.clients),
                     fmt::format("{} x {}", options.rows, options.cols), point.update_bytes, point.timing);
      object["clients"] = point.clients;
      object["seconds_per_client"] = point.timing.seconds / point.clients;
      object["cpu_seconds"] = point.cpu_seconds;
      report.rows.push_back(std::move(object));
    }
    fits.push_back({{"transport", series.transport},
                    {"a", series.fit.fixed},
                    {"b", series.fit.per_unit},
                    {"cpu_a", series.cpu_fit.fixed},
                    {"cpu_b", series.cpu_fit.per_unit}});
    report.remarks += fmt::format(
        "{} and merge of N clients: {:.3f} ms + N x {:.4f} ms; CPU of all ranks {:.3f} ms + N x {:.4f} ms\n",
        series.transport, series.fit.fixed * 1e3, series.fit.per_unit * 1e3, series.cpu_fit.fixed * 1e3,
        series.cpu_fit.per_unit * 1e3);
  }
  report.facts["fits"] = fits;
}

}  // namespace

BenchReport transport_bench(comm::Communicator& communicator, const BenchOptions& options) {
  comm::TransportBenchOptions sizes;
  comm::ScalingBenchOptions scaling;
  if (options.quick) {
    sizes.rows = scaling.rows = 24;
    sizes.cols = scaling.cols = 40;
    sizes.units = scaling.units = 2;
    sizes.repeats = scaling.repeats = 1;
    scaling.clients = {1, 3, 8};
  }
  if (!options.clients.empty()) scaling.clients = options.clients;
  BenchReport report;
  add_transports(report, comm::bench_transports(communicator, sizes));
  add_scaling(report, scaling, comm::bench_scaling(communicator, scaling));
  return report;
}

}  // namespace fedspallm::app
