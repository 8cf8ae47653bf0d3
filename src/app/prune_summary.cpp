// SPDX-License-Identifier: Apache-2.0
// The end of a run: statistics of all ranks, summary.json and the table that people read.
#include "fedspallm/base/error.hpp"
#include "fedspallm/report/system.hpp"
#include "fedspallm/report/table.hpp"

#include "prune_run.hpp"
#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <utility>

namespace fedspallm::app {

/// Collective: what the other ranks' clients did comes to metrics.jsonl, with the time when it was. At a
/// round's end, good or stopped; a killed run lacks those of the round under way, other than rank 0's.
void PruneRun::collect_events() {
  const std::vector<std::string> all =
      communicator_.gather(nlohmann::json(std::exchange(events_, {})).dump());
  at_root([&] {
    for (std::size_t rank = 0; rank < all.size(); ++rank)
      for (const auto& line : nlohmann::json::parse(all[rank])) {
        report::Event event = report::parse_event(line.get<std::string>());
        event.fields["rank"] = rank;
        metrics_->write(event);
      }
  });
}

void PruneRun::collect_statistics() {
  const prune::PhaseSeconds& phases = clients_->seconds();
  const nlohmann::json mine = {{"dropped_weights", clients_->dropped_weights()},
                               {"peak_rss_bytes", report::peak_rss_bytes()},
                               {"peak_gpu_bytes", backend_->name() == "cuda" ? backend_->peak_bytes() : 0},
                               {"seconds",
                                {{"forward", phases.forward},
                                 {"hessian", phases.hessian},
                                 {"factorize", phases.factorize},
                                 {"prune", phases.prune},
                                 {"pack", phases.pack},
                                 {"saving_states", clients_->saving_seconds()},
                                 {"pruning", seconds_["pruning"]},
                                 {"waiting", seconds_["waiting"]},
                                 {"merging", seconds_["merging"]},
                                 {"writing_blocks", writing_blocks_},
                                 {"writing_model", writing_model_}}}};
  for (const std::string& text : communicator_.gather(mine.dump())) {
    const auto theirs = nlohmann::json::parse(text);
    for (const auto& [client, dropped] :
         theirs["dropped_weights"].get<std::vector<std::pair<std::uint32_t, std::int64_t>>>())
      if (!is_dropped(identity_.dropped, client)) dropped_by_client_[client] = dropped;
    peak_rss_.push_back(theirs["peak_rss_bytes"]);
    peak_gpu_.push_back(theirs["peak_gpu_bytes"]);
    rank_times_.push_back(theirs["seconds"]);
  }
}

/// At the root: of the inputs, and of the work so far.
std::vector<std::string> PruneRun::warnings() const {
  std::vector<std::string> result = inputs_.warnings;
  for (std::string& text : warnings_.texts()) result.push_back(std::move(text));
  return result;
}

store::Provenance PruneRun::provenance() {
  store::Provenance result;
  result.config_toml = config::to_toml(config_);
  result.entries = facts_;
  result.entries.emplace_back(store::kRunIdEntry, fmt::format("{:016x}", identity_.run_id));
  result.entries.emplace_back("model_sha256", identity_.facts.at("model_sha256"));
  result.entries.emplace_back("tokenizer_sha256", inputs_.model->tokenizer_digest());
  result.entries.emplace_back("transport", transport_);
  result.entries.emplace_back("topology", topology_);
  for (const auto& client : config_.clients) result.clients.push_back(client.name);
  result.token_sha256 = inputs_.token_sha256;
  result.warnings = warnings();
  for (const DroppedClient& one : identity_.dropped) result.warnings.push_back(dropped_text(one));
  result.rounds = config_.federation.rounds;
  result.blocks = inputs_.model->architecture().blocks;
  result.sparsity = config_.prune.sparsity;
  return result;
}

namespace {

/// Where a rank's client thread spent the pruning: shares of its wall time, 1 in all. "wire" is packing and
/// handing over; what travels and what the root merges runs beside it. "other": loading weights, finding the
/// start, and what nobody counted.
nlohmann::json time_shares(const nlohmann::json& seconds) {
  const double wall = seconds["pruning"].get<double>();
  if (wall <= 0) return nlohmann::json::object();
  const auto share = [&](std::initializer_list<const char*> names) {
    double sum = 0;
    for (const char* name : names) sum += seconds[name].get<double>();
    return sum / wall;
  };
  nlohmann::json shares = {{"compute", share({"forward", "hessian", "factorize", "prune"})},
                           {"wire", share({"pack"})},
                           {"waiting", share({"waiting"})},
                           {"disk", share({"saving_states"})}};
  double known = 0;
  for (const auto& one : shares) known += one.get<double>();
  shares["other"] = std::max(0.0, 1 - known);
  return shares;
}

}  // namespace

nlohmann::json PruneRun::summary() const {
  nlohmann::json result = {{"format_version", 1}};
  for (const auto& [name, value] : facts_) result[name == "version" ? "version" : "run_" + name] = value;
  for (std::size_t set = 0; set < inputs_.evaluations.size(); ++set) {
    nlohmann::json& entry = result["perplexity"][inputs_.evaluations[set].name];
    if (set < dense_.size()) entry["dense"] = dense_[set].perplexity;
    if (set < merged_.size()) entry["merged"] = merged_[set].perplexity;
    for (const auto& [client, values] : standalone_) entry["standalone"][client] = values[set].perplexity;
  }
  const double weights = static_cast<double>(std::max<std::int64_t>(1, inputs_.model->prunable_weights()));
  std::int64_t dropped = 0;
  for (const auto& [block, count] : dropped_weights_) dropped += count;
  double mean = 0;  // of the clients' own results
  for (const auto& [client, count] : dropped_by_client_) {
    const double sparsity = static_cast<double>(count) / weights;
    result["client_sparsity"][config_.clients[client].name] = sparsity;
    mean += sparsity / static_cast<double>(dropped_by_client_.size());
  }
  result["sparsity"] = merges() ? static_cast<double>(dropped) / weights : mean;
  result["sparsity_scope"] = "linear weights inside decoder blocks";
  result["seconds"] = seconds_;
  result["seconds"]["total"] = now();
  result["resumed"] = goes_on_;  // then seconds, bytes and memory are those of this process alone
  result["rank_seconds"] = rank_times_;
  for (const nlohmann::json& seconds : rank_times_) result["time_shares"].push_back(time_shares(seconds));
  result["transport"] = transport_;
  result["topology"] = topology_;
  result["bytes_on_wire"] = bytes_on_wire_;
  result["peak_rss_bytes"] = peak_rss_;
  result["peak_merge_bytes"] = peak_merge_bytes_;
  if (std::any_of(peak_gpu_.begin(), peak_gpu_.end(), [](std::int64_t bytes) { return bytes > 0; }))
    result["peak_gpu_bytes"] = peak_gpu_;  // without the driver's and the libraries' own
  for (const auto& client : config_.clients) result["clients"].push_back(client.name);
  result["dropped"] = to_json(identity_.dropped);
  for (auto& one : result["dropped"]) one["client"] = config_.clients[one["client"].get<std::size_t>()].name;
  result["warnings"] = warnings();
  return result;
}

void PruneRun::print_table(const nlohmann::json& summary) const {
  report::ResultTable table;
  for (const auto& set : inputs_.evaluations) table.sets.push_back(set.name);
  const auto row = [&](const std::string& label, const std::vector<report::Perplexity>& values) {
    if (values.empty()) return;
    std::vector<double> perplexities;
    for (const auto& value : values) perplexities.push_back(value.perplexity);
    table.rows.push_back({label, perplexities});
  };
  row("dense", dense_);
  for (const auto& client : config_.clients)
    if (const auto found = standalone_.find(client.name); found != standalone_.end())
      row("stand-alone " + client.name, found->second);
  row(config_.federation.aggregation == config::Aggregation::mean ? "federated (mean)" : "federated",
      merged_);
  table.sparsity = summary["sparsity"];
  table.bytes_on_wire = bytes_on_wire_;
  table.transport = topology_ == "nodes" ? transport_ + ", topology nodes" : transport_;
  table.seconds = summary["seconds"]["total"];
  table.pruning_seconds = seconds_.at("pruning");
  table.peak_rss_bytes = peak_rss_;
  std::fputs(report::to_text(table).c_str(), stdout);
  for (const DroppedClient& one : identity_.dropped)
    std::fputs(fmt::format("{:<13}{}\n", "left out", dropped_text(one)).c_str(), stdout);
  std::fputs(
      fmt::format(
          "{}\nA pruned model is as large and as fast as before: its zeros are stored. Sparse kernels or "
          "`fedspallm export --format bitmask` make use of them.\nTables and pictures of it: tools/report.py "
          "{}\n",
          (merges() ? paths_.model() : paths_.clients()).string(), paths_.dir.string())
          .c_str(),
      stdout);
  std::fflush(stdout);
}

void PruneRun::write_summary() {
  collect_statistics();
  at_root([&] {
    const nlohmann::json result = summary();
    store::write_file_atomically(paths_.summary(), result.dump(1) + "\n");
    metrics_->write({"run_finished", {{"seconds", now()}}});
    print_table(result);
  });
}

}  // namespace fedspallm::app
