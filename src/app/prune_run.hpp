// SPDX-License-Identifier: Apache-2.0
// Purpose: one run of `fedspallm prune`, step by step. The order of the steps is run(); each step is
// collective. prune_start.cpp: from where the run goes on; prune_save.cpp: the output; prune_summary.cpp: its
// end.
// Non-goals: parsing, dry runs (forecast.hpp), finished runs (prune_command.cpp).
#pragma once

#include "fedspallm/base/log.hpp"
#include "fedspallm/comm/watchdog.hpp"
#include "fedspallm/report/metrics.hpp"
#include "fedspallm/report/progress.hpp"
#include "fedspallm/store/model_writer.hpp"
#include "fedspallm/store/run_lock.hpp"

#include <nlohmann/json.hpp>

#include "block_merger.hpp"
#include "checkpoint.hpp"
#include "client.hpp"
#include "commands.hpp"
#include "device_transport.hpp"
#include "evaluate.hpp"
#include "identity.hpp"
#include "inputs.hpp"
#include "merge_way.hpp"
#include "root.hpp"
#include "run_status.hpp"
#include "run_warnings.hpp"
#include "signals.hpp"
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::app {

/// Names of the parts of a run, in their order: for the watchdog and status.json.
namespace phase {
constexpr const char* setup = "setup";
constexpr const char* dense_evaluation = "dense evaluation";
constexpr const char* pruning = "pruning";
constexpr const char* saving = "saving";
constexpr const char* evaluation = "evaluation";
}  // namespace phase

class PruneRun {
 public:
  PruneRun(comm::Communicator& communicator, const config::Config& config, Inputs inputs,
           const PruneOptions& options, Signals& signals, comm::Watchdog& watchdog, RunStatus& status);
  void run();

 private:
  // prune_start.cpp
  void open_directory();
  void decide_identity();
  void start_over();
  void replace_what_differs();
  void find_shared_folder();
  [[nodiscard]] LocalClients::Hooks client_hooks();
  void place_on_gpu(LocalClients::Hooks& hooks) const;
  void find_position();
  void choose_state_distance();

  void enter(const char* phase);
  /// To the log and, at the root, to what the run is remembered by.
  void warn(const std::string& text);
  void evaluate_dense();
  void prune_rounds();
  void one_round(const RoundPlan& plan);
  [[nodiscard]] store::BlockFiles block_files();
  void run_clients(const RoundPlan& plan, comm::Exchange& exchange);
  void listen(comm::Exchange& exchange);
  void share_dropped(const std::vector<DroppedClient>& mine);
  bool note_dropped(const DroppedClient& one);
  [[nodiscard]] std::string dropped_text(const DroppedClient& one) const;
  [[nodiscard]] comm::ExchangeOptions exchange_options(const RoundPlan& plan);
  [[nodiscard]] comm::Exchange::OnCompleted on_completed(const RoundPlan& plan, BlockMerger& merger,
                                                         comm::ExchangeOptions& options);
  void before_block();
  void on_block(const BlockSummary& summary);
  [[nodiscard]] std::int64_t received_since_last_block();
  void evaluate_results();
  void evaluate_merged();
  void evaluate_standalone();
  void write_metrics(const std::string& model, const std::vector<report::Perplexity>& results);
  /// The source, for evaluations that a signal may end between two blocks.
  [[nodiscard]] report::BlockSource interruptible(report::BlockSource source);
  /// Collective: whether any rank was asked to stop. @throws Stopped on all ranks alike
  void stop_if_asked(const std::string& where);

  // prune_save.cpp
  void save();
  void write_unfinished_links();
  void write_model();

  // prune_summary.cpp
  void collect_events();
  void collect_statistics();
  void write_summary();
  [[nodiscard]] std::vector<std::string> warnings() const;
  [[nodiscard]] store::Provenance provenance();
  [[nodiscard]] nlohmann::json summary() const;
  void print_table(const nlohmann::json& summary) const;

  [[nodiscard]] bool root() const { return communicator_.rank() == 0; }
  [[nodiscard]] bool merges() const { return config_.federation.aggregation != config::Aggregation::none; }
  [[nodiscard]] double now() const;
  /// Collective: a step of the root's; its failure is every rank's.
  void at_root(const std::function<void()>& step);
  /// Runs a step on all ranks, adds its wall time to seconds_[name].
  template <class Step>
  void timed(const std::string& name, Step step);

  comm::Communicator& communicator_;
  const config::Config& config_;
  Inputs inputs_;
  const PruneOptions& options_;
  Signals& signals_;
  comm::Watchdog& watchdog_;
  RunStatus& status_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  store::RunPaths paths_;
  const char* phase_ = phase::setup;
  int threads_ = 1;
  std::unique_ptr<backend::Backend> backend_;
  DeviceChoice device_;  // after the backend, whose memory it has
  Nodes nodes_;
  std::unique_ptr<Logger> log_;
  std::vector<std::pair<std::string, std::string>> facts_;
  RunShape shape_;
  // The same on all ranks.
  RunIdentity identity_;
  bool goes_on_ = false;
  std::optional<std::map<std::string, std::string>> forced_facts_;  // of now, where identity_ has other ones
  Start begin_;                                 // where this process begins; clients apart the same
  bool shared_folder_ = false;                  // all ranks see the root's run directory
  std::unique_ptr<store::ModelWriter> writer_;  // null where nothing is merged
  // At the root only.
  const store::RunLock* lock_ = nullptr;  // status_ keeps it
  std::optional<store::BlockStore> store_;
  std::unique_ptr<RootLedger> ledger_;
  std::unique_ptr<report::MetricsWriter> metrics_;
  std::unique_ptr<report::Progress> progress_;
  std::map<std::int64_t, std::int64_t> dropped_weights_;  // by block, of the newest round that pruned it
  RunWarnings warnings_;
  std::mutex exchange_mutex_;                 // of the pointer
  const comm::Exchange* exchange_ = nullptr;  // of the round that runs
  std::uint32_t round_ = 1;
  std::int64_t received_ = 0;  // bytes of the round, until its last event `block`
  // At the others: lines for metrics.jsonl, until the round ends.
  std::vector<std::string> events_;
  // Results.
  std::optional<LocalClients> clients_;
  std::map<std::string, double> seconds_;
  std::string transport_ = "none";
  std::string topology_ = "none";
  std::int64_t bytes_on_wire_ = 0;
  std::int64_t peak_merge_bytes_ = 0;
  double writing_blocks_ = 0, writing_model_ = 0;  // seconds of this rank
  std::vector<report::Perplexity> dense_, merged_;
  std::map<std::string, std::vector<report::Perplexity>> standalone_;
  std::map<std::uint32_t, std::int64_t> dropped_by_client_;  // weights, as far as known
  std::vector<std::int64_t> peak_rss_;
  std::vector<std::int64_t> peak_gpu_;  // of the backend; 0 on a CPU
  std::vector<nlohmann::json> rank_times_;
};

}  // namespace fedspallm::app
