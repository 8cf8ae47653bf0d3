// SPDX-License-Identifier: Apache-2.0
// Purpose: one run of `fedspallm prune`, step by step. The order of the steps is run(); each step is
// collective. Non-goals: parsing, dry runs (dry_run.hpp).
#pragma once

#include "fedspallm/base/log.hpp"
#include "fedspallm/report/metrics.hpp"
#include "fedspallm/report/progress.hpp"

#include <nlohmann/json.hpp>

#include "client.hpp"
#include "commands.hpp"
#include "evaluate.hpp"
#include "inputs.hpp"
#include "root.hpp"
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::app {

class PruneRun {
 public:
  PruneRun(comm::Communicator& communicator, const config::Config& config, Inputs inputs, bool quiet);
  void run();

 private:
  void prepare_directory();
  void evaluate_dense();
  void prune_rounds();
  void one_round(const RoundPlan& plan);
  [[nodiscard]] comm::ExchangeOptions exchange_options(const RoundPlan& plan);
  void on_block(const BlockSummary& summary);
  void save();
  void evaluate_results();
  void evaluate_merged();
  void evaluate_standalone();
  void collect_events();
  void write_summary();
  [[nodiscard]] store::Provenance provenance();
  [[nodiscard]] nlohmann::json summary() const;
  void print_table(const nlohmann::json& summary) const;
  [[nodiscard]] bool root() const { return communicator_.rank() == 0; }
  [[nodiscard]] bool merges() const { return config_.federation.aggregation != config::Aggregation::none; }
  [[nodiscard]] double now() const;
  /// Runs a step on all ranks, adds its wall time to seconds_[name].
  template <class Step>
  void timed(const std::string& name, Step step);

  comm::Communicator& communicator_;
  const config::Config& config_;
  Inputs inputs_;
  bool quiet_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  store::RunPaths paths_;
  int threads_ = 1;
  std::unique_ptr<backend::Backend> backend_;
  std::unique_ptr<Logger> log_;
  std::vector<std::pair<std::string, std::string>> facts_;
  // At the root only.
  std::optional<store::BlockStore> store_;
  std::unique_ptr<store::ModelWriter> writer_;
  std::unique_ptr<RootMerger> merger_;
  std::unique_ptr<report::MetricsWriter> metrics_;
  std::unique_ptr<report::Progress> progress_;
  std::map<std::int64_t, std::int64_t> dropped_;  // by block, of the newest round that pruned it
  // Results.
  std::optional<LocalClients> clients_;
  std::map<std::string, double> seconds_;
  std::string transport_ = "none";
  std::int64_t bytes_on_wire_ = 0;
  std::int64_t peak_merge_bytes_ = 0;
  std::vector<report::Perplexity> dense_, merged_;
  std::map<std::string, std::vector<report::Perplexity>> standalone_;
  std::vector<std::int64_t> peak_rss_;
  std::vector<nlohmann::json> rank_times_;
};

}  // namespace fedspallm::app
