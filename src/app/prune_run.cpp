// SPDX-License-Identifier: Apache-2.0
#include "prune_run.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/report/system.hpp"

#include "overlay.hpp"
#include "setup.hpp"
#include <fstream>

namespace fedspallm::app {

PruneRun::PruneRun(comm::Communicator& communicator, const config::Config& config, Inputs inputs, bool quiet)
    : communicator_(communicator),
      config_(config),
      inputs_(std::move(inputs)),
      quiet_(quiet),
      paths_{config.run.dir} {
  threads_ = threads_of_rank(communicator, config.run.threads);
  communicator_.together([&] {
    check<NotCompiled>(config.federation.transport != config::TransportKind::nccl,
                       "federation.transport = \"nccl\": this build has no NCCL; build the preset `cuda` "
                       "(cmake --preset cuda), or use \"auto\"");
    backend_ = make_backend(config.run.backend, threads_);
  });
  facts_ = facts(communicator_, *backend_, threads_);
}

double PruneRun::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

template <class Step>
void PruneRun::timed(const std::string& name, Step step) {
  const double begin = now();
  step();
  seconds_[name] += now() - begin;
}

void PruneRun::run() {
  timed("setup", [&] { prepare_directory(); });
  timed("evaluation", [&] { evaluate_dense(); });
  timed("pruning", [&] { prune_rounds(); });
  timed("saving", [&] { save(); });  // always before evaluation: the model is what must not be lost
  timed("evaluation", [&] { evaluate_results(); });
  write_summary();
}

void PruneRun::prepare_directory() {
  communicator_.together([&] {
    if (!root()) return;
    std::error_code error;
    std::filesystem::create_directories(paths_.dir / "logs", error);
    check<ResourceError>(!error,
                         fmt::format("{}: cannot be created: {}", paths_.dir.string(), error.message()));
    std::filesystem::remove(paths_.summary(), error);
    store_.emplace(store::BlockStore::of_run(paths_));
    store_->clear();
    store::write_file_atomically(paths_.config(), config::to_toml(config_));
    metrics_ = std::make_unique<report::MetricsWriter>(paths_.metrics());
    progress_ =
        std::make_unique<report::Progress>(inputs_.model->architecture().blocks * config_.federation.rounds,
                                           /*to_terminal=*/!quiet_ && report::is_terminal());
    if (merges())
      writer_ = std::make_unique<store::ModelWriter>(*inputs_.model, paths_.model(),
                                                     config_.model.dtype == config::ModelDType::float32);
  });
  communicator_.together([&] {
    std::filesystem::create_directories(paths_.dir / "logs");
    log_ = std::make_unique<Logger>(
        communicator_.rank(),
        (paths_.dir / "logs" / fmt::format("rank_{:04}.log", communicator_.rank())).string(),
        quiet_ ? LogLevel::warning : LogLevel::info);
  });
  const model::Architecture& architecture = inputs_.model->architecture();
  log_->info("{}: {} model, {} blocks, {} prunable weights; {} clients on {} ranks, {} threads a rank, {}",
             config_.model.path.string(), architecture.family, architecture.blocks,
             inputs_.model->prunable_weights(), config_.clients.size(), communicator_.size(), threads_,
             backend_->kernel_set());
  for (const std::string& warning : inputs_.warnings) log_->warn("{}", warning);
  if (root()) {
    merger_ = std::make_unique<RootMerger>(*inputs_.model, *store_, writer_.get(),
                                           [this](const BlockSummary& summary) { on_block(summary); });
    metrics_->write({"run_started", {{"ranks", communicator_.size()}, {"clients", config_.clients.size()}}});
  }
}

void PruneRun::evaluate_dense() {
  if (inputs_.evaluations.empty()) return;
  const auto source = report::dense_source(*inputs_.model, *backend_);
  dense_ = evaluate(communicator_, *inputs_.model, *backend_, source, inputs_.evaluations,
                    /*participates=*/true, "the dense model");
  for (std::size_t set = 0; set < dense_.size(); ++set) {
    const std::string& name = inputs_.evaluations[set].name;
    log_->info("dense perplexity on '{}': {:.4f} ({} windows)", name, dense_[set].perplexity,
               dense_[set].samples);
    metrics_->write(
        {"evaluation", {{"model", "dense"}, {"set", name}, {"perplexity", dense_[set].perplexity}}});
    const auto vocabulary = static_cast<double>(inputs_.model->architecture().vocab_size);
    if (dense_[set].perplexity > vocabulary)
      log_->warn(
          "dense perplexity on '{}' is above the vocabulary size: worse than guessing; are the tokens for "
          "this model?",
          name);
  }
}

comm::ExchangeOptions PruneRun::exchange_options(const RoundPlan& plan) {
  comm::ExchangeOptions options;
  options.chunk_bytes = config_.federation.chunk_bytes;
  std::string reason = "as the configuration says";
  switch (config_.federation.transport) {
    case config::TransportKind::reduce:
      options.transport = comm::Transport::reduce;
      break;
    case config::TransportKind::gather:
      options.transport = comm::Transport::gather;
      break;
    case config::TransportKind::nccl:
      throw LogicError("nccl was refused at the start");
    case config::TransportKind::automatic: {
      const comm::TransportChoice choice = comm::choose_transport(plan.exchange, communicator_.size());
      options.transport = choice.transport;
      reason = choice.reason;
      break;
    }
  }
  transport_ = options.transport == comm::Transport::reduce ? "reduce" : "gather";
  if (plan.round == 1) log_->info("transport {}: {}", transport_, reason);
  return options;
}

void PruneRun::prune_rounds() {
  communicator_.together([&] { clients_.emplace(*backend_, config_, inputs_, start_); });
  for (int round = 1; round <= config_.federation.rounds; ++round) {
    RoundPlan plan;
    communicator_.together([&] {
      plan = plan_round(config_, *inputs_.model, inputs_.rank_of_client, static_cast<std::uint32_t>(round));
    });
    if (!plan.uncovered.empty())
      log_->warn("round {}: {} blocks are drawn by no client and stay as they are", round,
                 plan.uncovered.size());
    one_round(plan);
  }
}

void PruneRun::one_round(const RoundPlan& plan) {
  if (root()) merger_->begin_round(plan);
  // Without merging the exchange is empty and only carries failures between ranks.
  comm::Exchange exchange(
      communicator_, plan.exchange, exchange_options(plan),
      [this](const comm::CompletedUnit& unit) { merger_->complete(unit); },
      [this](std::uint32_t block) { return merger_->provide(block); });
  const auto standalone_progress = [this, &plan](std::int64_t block, double error) {
    if (merges() || !root()) return;
    BlockSummary summary{.round = plan.round, .block = block, .error = error};
    summary.clients = static_cast<std::int64_t>(inputs_.clients.size());
    for (const auto& matrix : inputs_.model->architecture().matrices)
      summary.weights += matrix.rows * matrix.cols;
    on_block(summary);
  };
  try {
    clients_->run_round(plan, merges() ? &exchange : nullptr, standalone_progress);
  } catch (const Error& error) {
    exchange.fail(error);
  } catch (const std::bad_alloc&) {
    exchange.fail(ResourceError("out of memory while pruning; put fewer clients on a rank or see --dry-run"));
  } catch (const std::exception& error) {
    exchange.fail(LogicError(std::string("unexpected: ") + error.what()));
  }
  exchange.finish();
  const comm::ExchangeStatistics statistics = exchange.statistics();
  bytes_on_wire_ += communicator_.sum(statistics.bytes_sent);
  peak_merge_bytes_ = std::max(peak_merge_bytes_, statistics.peak_merge_bytes);
  seconds_["waiting"] += statistics.seconds_waited;
  seconds_["merging"] += statistics.seconds_merging;
}

/// Runs on the exchange's merge thread (or, without merging, on the client thread).
void PruneRun::on_block(const BlockSummary& summary) {
  dropped_[summary.block] = summary.dropped;
  const double sparsity =
      static_cast<double>(summary.dropped) / static_cast<double>(std::max<std::int64_t>(1, summary.weights));
  const std::int64_t blocks = inputs_.model->architecture().blocks;
  const std::string line = progress_->block_done({.block = (summary.round - 1) * blocks + summary.block,
                                                  .error = summary.error,
                                                  .sparsity = sparsity,
                                                  .client_blocks = summary.clients,
                                                  .weights = summary.weights * summary.clients});
  if (!line.empty()) log_->info("{}", line);
  if (summary.damping_steps > 0 || summary.above_target) progress_->clear();
  if (summary.damping_steps > 0)
    log_->warn("block {}: a Hessian needed its damping raised by 10^{}", summary.block,
               summary.damping_steps);
  if (summary.above_target)
    log_->warn(
        "block {}: the clients agree on more zeros than the target asks for; nothing was expanded there",
        summary.block);
  metrics_->write({"block",
                   {{"round", summary.round},
                    {"block", summary.block},
                    {"seconds", now()},
                    {"error", summary.error},
                    {"sparsity", sparsity},
                    {"expanded", summary.expanded},
                    {"damping_steps", summary.damping_steps},
                    {"merge_seconds", summary.merge_seconds},
                    {"write_seconds", summary.write_seconds}}});
}

store::Provenance PruneRun::provenance() {
  store::Provenance result;
  result.config_toml = config::to_toml(config_);
  result.entries = facts_;
  result.entries.emplace_back("model_sha256", inputs_.model->digest());
  result.entries.emplace_back("tokenizer_sha256", inputs_.model->tokenizer_digest());
  result.entries.emplace_back("transport", transport_);
  for (const auto& client : config_.clients) result.clients.push_back(client.name);
  result.token_sha256 = inputs_.token_sha256;
  result.warnings = inputs_.warnings;
  result.rounds = config_.federation.rounds;
  result.blocks = inputs_.model->architecture().blocks;
  result.sparsity = config_.prune.sparsity;
  return result;
}

void PruneRun::save() {
  communicator_.together([&] {
    store::Provenance mine;
    if (config_.run.keep_clients || root()) mine = provenance();
    clients_->finish(mine);
    if (!root()) return;
    if (merges()) {
      merger_->record_dense_blocks();
      writer_->finish();
    }
    store_->write_links(mine, /*complete=*/true);
    log_->info("{}: written and complete", (merges() ? paths_.model() : paths_.clients()).string());
  });
}

void PruneRun::evaluate_results() {
  if (inputs_.evaluations.empty()) return;
  if (merges()) evaluate_merged();
  if (config_.report.standalone || !merges()) evaluate_standalone();
}

void PruneRun::evaluate_merged() {
  // The merged model is evaluated where it can be seen: on every rank of a shared file system, else at the
  // root.
  std::unique_ptr<model::ModelDirectory> merged;
  communicator_.together([&] {
    if (root() || std::filesystem::exists(paths_.model() / "config.json"))
      merged = std::make_unique<model::ModelDirectory>(paths_.model());
  });
  const bool sees = merged != nullptr;
  const model::ModelDirectory& model = sees ? *merged : *inputs_.model;
  merged_ = evaluate(communicator_, model, *backend_, report::dense_source(model, *backend_),
                     inputs_.evaluations, sees, "the merged model");
  for (std::size_t set = 0; set < merged_.size(); ++set) {
    const std::string& name = inputs_.evaluations[set].name;
    log_->info("merged perplexity on '{}': {:.4f}", name, merged_[set].perplexity);
    metrics_->write(
        {"evaluation", {{"model", "merged"}, {"set", name}, {"perplexity", merged_[set].perplexity}}});
  }
}

void PruneRun::evaluate_standalone() {
  std::vector<OwnModel> own;
  std::vector<std::shared_ptr<store::BlockStore>> stores;
  for (const LocalClient& client : inputs_.clients) {
    stores.push_back(std::make_shared<store::BlockStore>(store::BlockStore::of_client(paths_, client.name)));
    own.push_back({client.name, [this, store = stores.back()](std::int64_t block) {
                     model::BlockWeights weights = model::load_block(*inputs_.model, block, *backend_);
                     if (const auto record = store->newest(static_cast<std::uint32_t>(block)))
                       apply_record(*backend_, *record, weights);
                     return weights;
                   }});
  }
  standalone_ = evaluate_own(communicator_, *inputs_.model, *backend_, own, inputs_.evaluations);
  for (const auto& [client, results] : standalone_)
    for (std::size_t set = 0; set < results.size(); ++set)
      metrics_->write({"evaluation",
                       {{"model", client},
                        {"set", inputs_.evaluations[set].name},
                        {"perplexity", results[set].perplexity}}});
}

}  // namespace fedspallm::app
