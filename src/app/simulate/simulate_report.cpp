// SPDX-License-Identifier: Apache-2.0
#include "simulate_report.hpp"

#include "fedspallm/report/table.hpp"

#include <fmt/format.h>

namespace fedspallm::app {

namespace {

nlohmann::json rows_of(const std::vector<ScalingRow>& rows) {
  nlohmann::json list = nlohmann::json::array();
  for (const ScalingRow& row : rows)
    list.push_back({{"gpus", row.gpus},
                    {"clients", row.clients},
                    {"way", row.way},
                    {"compute_seconds_per_block", row.compute_seconds},
                    {"merge_seconds_per_block", row.merge_seconds},
                    {"seconds", row.seconds},
                    {"efficiency", row.efficiency}});
  return list;
}

nlohmann::json size_of(const SizeReport& report) {
  nlohmann::json object = {
      {"clients", report.size.clients},
      {"seconds_per_block", report.size.seconds},
      {"seconds_per_client", report.size.seconds / static_cast<double>(report.size.clients)},
      {"peak_merge_bytes", report.size.peak_merge_bytes},
      {"runs", report.size.runs},
      {"held_out", !report.fitted}};
  if (report.forecast) {
    object["forecast_seconds_per_block"] = *report.forecast;
    object["error"] = *report.forecast / report.size.seconds - 1;
  }
  return object;
}

nlohmann::json performance_of(const SimulationReport& report) {
  const PerformanceModel& model = *report.performance;
  return {{"a", model.a},
          {"b", model.b},
          {"fixed_seconds_per_block", model.fixed_seconds},
          {"link_bytes_per_second", model.rates.link_bytes_per_second},
          {"seconds_per_message", model.rates.seconds_per_message},
          {"add_seconds_per_weight", model.rates.add_seconds_per_weight},
          {"add_tiles_seconds_per_byte", model.rates.add_tiles_seconds_per_byte},
          {"link_measured", report.link_measured},
          {"link_scaled", model.link_scaled}};
}

std::string milliseconds(const nlohmann::json& seconds) {
  return fmt::format("{:.3f}", seconds.get<double>() * 1e3);
}
std::string megabytes(const nlohmann::json& bytes) {
  return fmt::format("{:.1f}", bytes.get<double>() * 1e-6);
}

std::string ranks_table(const nlohmann::json& ranks) {
  report::TextTable table({"rank", "clients", "sent MB", "forecast MB", "merge MB", "peak MB", "seconds",
                           "making", "adding", "finishing", "writing"});
  const auto seconds = [](const nlohmann::json& value) { return fmt::format("{:.3f}", value.get<double>()); };
  for (const auto& rank : ranks)
    table.add_row({fmt::format("{}", rank["rank"].get<int>()), fmt::format("{}", rank["clients"].get<int>()),
                   megabytes(rank["bytes_sent"]), megabytes(rank["bytes_forecast"]),
                   megabytes(rank["peak_merge_bytes"]), megabytes(rank["peak_rss_bytes"]),
                   seconds(rank["seconds"]), seconds(rank["making_seconds"]), seconds(rank["adding_seconds"]),
                   seconds(rank["finishing_seconds"]), seconds(rank["writing_seconds"])});
  return table.text();
}

std::string sizes_table(const nlohmann::json& sizes) {
  report::TextTable table({"clients", "ms a block", "ms a client", "forecast ms", "error", ""});
  for (const auto& size : sizes) {
    const bool has = size.contains("error");
    table.add_row({fmt::format("{}", size["clients"].get<std::int64_t>()),
                   milliseconds(size["seconds_per_block"]), milliseconds(size["seconds_per_client"]),
                   has ? milliseconds(size["forecast_seconds_per_block"]) : "",
                   has ? fmt::format("{:+.1f} %", 100 * size["error"].get<double>()) : "",
                   size["held_out"].get<bool>() ? "held out" : "fitted"});
  }
  return table.text();
}

std::string scaling_table(const nlohmann::json& rows) {
  report::TextTable table(
      {"GPUs", "clients", "way", "compute s a block", "merge s a block", "round s", "efficiency"});
  for (const auto& row : rows)
    table.add_row({fmt::format("{}", row["gpus"].get<std::int64_t>()),
                   fmt::format("{}", row["clients"].get<std::int64_t>()), row["way"],
                   fmt::format("{:.3g}", row["compute_seconds_per_block"].get<double>()),
                   fmt::format("{:.3g}", row["merge_seconds_per_block"].get<double>()),
                   fmt::format("{:.4g}", row["seconds"].get<double>()),
                   fmt::format("{:.1f} %", 100 * row["efficiency"].get<double>())});
  return table.text();
}

}  // namespace

nlohmann::json to_json(const RankUse& use) {
  const SimulatedResult& result = use.result;
  return {{"rank", use.rank},
          {"clients", use.clients},
          {"bytes_sent", result.bytes_sent},
          {"bytes_forecast", result.bytes_forecast},
          {"peak_merge_bytes", result.peak_merge_bytes},
          {"rss_before_bytes", use.rss_before},
          {"peak_rss_bytes", use.rss_peak},
          {"seconds", result.seconds},
          {"making_seconds", result.making},
          {"adding_seconds", result.adding},
          {"finishing_seconds", result.finishing},
          {"writing_seconds", result.writing},
          {"waiting_seconds", result.waiting},
          {"merge_and_wire_seconds", result.merge_and_wire()}};
}

nlohmann::json to_json(const SimulationReport& report) {
  nlohmann::json dropped = nlohmann::json::array();
  for (const comm::Dropped& one : report.clock.dropped)
    dropped.push_back({{"client", one.client}, {"block", one.block}, {"reason", one.reason}});
  nlohmann::json object = {{"format_version", 3},
                           {"version", report.version},
                           {"cpu", report.cpu},
                           {"cores", report.cores},
                           {"model", report.model},
                           {"blocks", report.blocks},
                           {"block_weights", report.block_weights},
                           {"blocks_run", report.blocks_run},
                           {"clients", report.clients},
                           {"seed", report.seed},
                           {"way", report.way},
                           {"reason", report.reason},
                           {"placement", report.placement},
                           {"ranks", report.ranks},
                           {"digest", report.digest},
                           {"cost_model_seconds_per_block", report.cost_model},
                           {"virtual",
                            {{"seconds", report.clock.seconds()},
                             {"compute_seconds", report.clock.compute_seconds},
                             {"merge_seconds", report.clock.merge_seconds},
                             {"client_block_seconds", report.client_block_seconds},
                             {"stragglers", report.stragglers},
                             {"merged_at", report.clock.merged},
                             {"clients_per_block", report.clock.clients},
                             {"uncovered", report.clock.uncovered},
                             {"dropped", dropped}}}};
  nlohmann::json sizes = nlohmann::json::array();
  for (const SizeReport& size : report.sizes) sizes.push_back(size_of(size));
  object["sizes"] = sizes;
  if (report.performance) object["performance"] = performance_of(report);
  if (report.scaling)
    object["forecast"] = {{"strong", rows_of(report.scaling->strong)},
                          {"weak", rows_of(report.scaling->weak)}};
  return object;
}

std::string to_text(const nlohmann::json& report) {
  const auto& clock = report["virtual"];
  std::string text = fmt::format(
      "{}: {} blocks of {} weights; {} virtual clients on {} ranks by {} ({})\n"
      "virtual time of the round {:.1f} s: longest computing client {:.1f} s, merges {:.1f} s; {} clients "
      "dropped, {} stragglers\n"
      "really sent and merged: {} blocks, digest {}\n\n",
      report["model"].get<std::string>(), report["blocks"].get<std::int64_t>(),
      report["block_weights"].get<std::int64_t>(), report["clients"].get<std::int64_t>(),
      report["ranks"].size(), report["way"].get<std::string>(), report["reason"].get<std::string>(),
      clock["seconds"].get<double>(), clock["compute_seconds"].get<double>(),
      clock["merge_seconds"].get<double>(), clock["dropped"].size(), clock["stragglers"].get<std::int64_t>(),
      report["blocks_run"].get<std::int64_t>(), report["digest"].get<std::string>());
  text += ranks_table(report["ranks"]);
  text += "\ncost model, links as configured, ms a block:";
  for (const auto& [way, seconds] : report["cost_model_seconds_per_block"].items())
    text += fmt::format(" {} {}", way, milliseconds(seconds));
  text += "\n";
  if (!report["sizes"].empty()) text += "\nmerge and wire, per block\n" + sizes_table(report["sizes"]);
  if (report.contains("performance")) {
    const auto& model = report["performance"];
    text += fmt::format(
        "\nN clients: {:.3f} ms + N x {:.4f} ms a block; adding {:.3f} ns a weight, link {:.2f} GB/s and "
        "{:.1f} us a message ({})\n",
        model["a"].get<double>() * 1e3, model["b"].get<double>() * 1e3,
        model["add_seconds_per_weight"].get<double>() * 1e9,
        model["link_bytes_per_second"].get<double>() * 1e-9, model["seconds_per_message"].get<double>() * 1e6,
        model["link_measured"].get<bool>() ? "measured" : "as configured");
  }
  if (report.contains("forecast")) {
    text += "\nFORECAST, strong scaling (links and compute rate as configured, merging as measured)\n" +
            scaling_table(report["forecast"]["strong"]);
    text += "\nFORECAST, weak scaling: one client on each GPU\n" + scaling_table(report["forecast"]["weak"]);
  }
  return text;
}

}  // namespace fedspallm::app
