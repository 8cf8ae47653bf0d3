// SPDX-License-Identifier: Apache-2.0
#include "prune_run.hpp"

#include "fedspallm/base/error.hpp"

#include "overlay.hpp"
#include "setup.hpp"
#include <algorithm>
#include <utility>

namespace fedspallm::app {

namespace {

/// Only the root merges what comes from devices.
config::TransportKind transport_for_device(const config::Federation& federation) {
  if (federation.topology == config::TopologyKind::owners) return config::TransportKind::gather;
  if (federation.topology == config::TopologyKind::nodes) return config::TransportKind::reduce;
  return federation.transport;
}

}  // namespace

PruneRun::PruneRun(comm::Communicator& communicator, const config::Config& config, Inputs inputs,
                   const PruneOptions& options, Signals& signals, comm::Watchdog& watchdog, RunStatus& status)
    : communicator_(communicator),
      config_(config),
      inputs_(std::move(inputs)),
      options_(options),
      signals_(signals),
      watchdog_(watchdog),
      status_(status),
      paths_{config.run.dir} {
  threads_ = threads_of_rank(communicator, config.run.threads);
  if (std::string warning = bound_tightly(communicator, config.run.threads, threads_);
      !warning.empty() && root())
    inputs_.warnings.push_back(std::move(warning));
  communicator_.together([&] {
    check<NotCompiled>(config.federation.transport != config::TransportKind::nccl || comm::nccl_built(),
                       "federation.transport = \"nccl\": this build has no NCCL; build the preset `cuda` "
                       "(cmake --preset cuda), or use \"auto\"");
    backend_ = make_backend(config.run.backend, threads_, communicator_.node_rank(), config.run.products);
    shape_ = shape_of_run(config, *inputs_.model);
  });
  if (merges())
    device_ = choose_device_transport(communicator_, *backend_, own_gpu(communicator_, *backend_),
                                      transport_for_device(config.federation), !inputs_.clients.empty());
  nodes_ = nodes_of_run(communicator_);
  facts_ = facts(communicator_, *backend_, threads_);
}

void PruneRun::warn(const std::string& text) {
  log_->warn("{}", text);
  if (root()) warnings_.add(text);
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

void PruneRun::at_root(const std::function<void()>& step) {
  communicator_.together([&] {
    if (root()) step();
  });
}

void PruneRun::enter(const char* phase) {
  phase_ = phase;
  watchdog_.beat(phase);
  at_root([&] { status_.running(phase); });
}

void PruneRun::run() {
  signals_.set_grace(config_.run.grace_seconds);
  timed("setup", [&] { open_directory(); });
  stop_if_asked("before anything was pruned");
  timed("evaluation", [&] { evaluate_dense(); });
  enter(phase::pruning);
  timed("pruning", [&] {
    find_position();
    choose_state_distance();
    prune_rounds();
  });
  enter(phase::saving);
  timed("saving", [&] { save(); });  // always before evaluation: the model is what must not be lost
  stop_if_asked("after the model was saved, before its evaluation");
  timed("evaluation", [&] { evaluate_results(); });
  write_summary();
}

void PruneRun::stop_if_asked(const std::string& where) {
  const std::string signal = signals_.stop_signal();
  if (communicator_.maximum(signal.empty() ? 0 : 1) == 0) return;
  throw Stopped(fmt::format("stopped {}{}; the same command goes on from there",
                            signal.empty() ? "" : "on " + signal + " ", where));
}

report::BlockSource PruneRun::interruptible(report::BlockSource source) {
  return [this, source = std::move(source)](std::int64_t block) {
    watchdog_.beat(phase_, block);
    if (const std::string signal = signals_.stop_signal(); !signal.empty())
      throw Stopped(fmt::format("stopped on {} in the {}; the same command repeats it", signal, phase_));
    return source(block);
  };
}

void PruneRun::evaluate_dense() {
  if (inputs_.evaluations.empty()) return;
  enter(phase::dense_evaluation);
  const auto source = interruptible(report::dense_source(*inputs_.model, *backend_));
  dense_ = evaluate(communicator_, *inputs_.model, *backend_, source, inputs_.evaluations,
                    /*participates=*/true, "the dense model");
  at_root([&] { write_metrics("dense", dense_); });
  for (std::size_t set = 0; set < dense_.size(); ++set) {
    const std::string& name = inputs_.evaluations[set].name;
    log_->info("dense perplexity on '{}': {:.4f} ({} windows)", name, dense_[set].perplexity,
               dense_[set].samples);
    const auto vocabulary = static_cast<double>(inputs_.model->architecture().vocab_size);
    if (dense_[set].perplexity > vocabulary) {
      const std::string text = fmt::format(
          "dense perplexity on '{}' is above the vocabulary size: worse than guessing; are the tokens for "
          "this model?",
          name);
      warn(text);
    }
  }
}

comm::ExchangeOptions PruneRun::exchange_options(const RoundPlan& plan) {
  MergeWay way = ready_way(communicator_, config_, plan, shared_folder_, nodes_, device_);
  transport_ = comm::name_of(way.options.transport);
  topology_ = name_of(way.options.topology);
  if (plan.round == 1)
    for (const std::string& reason : way.reasons)
      way.fell_back ? log_->warn("{}", reason) : log_->info("{}", reason);
  return way.options;
}

/// Collective: what counts now, as the root knows it.
store::BlockFiles PruneRun::block_files() {
  std::string list;
  at_root([&] { list = ledger_->list(); });
  return {paths_.blocks(), communicator_.broadcast(std::move(list))};
}

/// How the root hears of blocks that are written: from its own merge thread, or, where each has a writer,
/// with the exchange's notes.
comm::Exchange::OnCompleted PruneRun::on_completed(const RoundPlan& plan, BlockMerger& merger,
                                                   comm::ExchangeOptions& options) {
  if (!options.spread_writing)
    return [this, &merger](const comm::CompletedUnit& unit) {
      if (const auto block = merger.complete(unit)) ledger_->take(*block);
    };
  const auto note = std::make_shared<std::string>();  // asked for at once, on the same thread
  options.note = [note](std::size_t) { return std::exchange(*note, {}); };
  options.on_note = [this, &plan](std::size_t unit, const std::string& text) {
    const auto& id = plan.exchange.units[unit].id;
    if (!text.empty()) ledger_->take(written_block_from_text(text, {id.round, id.block}));
  };
  return [note, &merger](const comm::CompletedUnit& unit) {
    if (const auto block = merger.complete(unit)) *note = to_text(*block);
  };
}

void PruneRun::prune_rounds() {
  for (store::Position at = begin_.first; at < end_of(shape_); at = {at.round + 1, 0}) {
    // Clients may begin before the first block that is merged.
    const store::Position merging =
        std::clamp(begin_.merging, store::Position{at.round, 0}, store::Position{at.round, shape_.blocks});
    RoundPlan plan;
    communicator_.together([&] {
      plan = plan_round(config_, *inputs_.model, inputs_.rank_of_client, merging, identity_.dropped);
      plan.exchange.first_block = at.block;
    });
    if (!plan.uncovered.empty())
      log_->warn("round {}: {} blocks are pruned by no client and stay as they are", plan.round,
                 plan.uncovered.size());
    if (root()) warnings_.add_uncovered(plan.round, plan.uncovered);
    one_round(plan);
  }
  nodes_.memory.reset();  // collective, so here and not where an error passes by
}

void PruneRun::listen(comm::Exchange& exchange) {
  signals_.listen({[&exchange] { exchange.request_stop(); }, [&exchange] { exchange.request_save(); }});
}

void PruneRun::one_round(const RoundPlan& plan) {
  round_ = plan.round;
  if (root()) ledger_->begin_round(plan.round);
  BlockMerger merger(*inputs_.model, plan, block_files(), communicator_.rank());
  comm::ExchangeOptions options = exchange_options(plan);
  comm::Exchange::OnCompleted completed = on_completed(plan, merger, options);
  write_unfinished_links();
  options.on_failure = [this] { watchdog_.failure_known(); };
  // The merge thread may have a block as soon as there is an exchange: it waits until it can be seen.
  std::unique_lock seen(exchange_mutex_);
  // Without merging the exchange is empty and only carries failures and signals between ranks.
  comm::Exchange exchange(communicator_, plan.exchange, std::move(options), std::move(completed),
                          [this](std::uint32_t block) { return ledger_->provide(block); });
  exchange_ = &exchange;
  received_ = 0;
  seen.unlock();
  run_clients(plan, exchange);
  // Without merging the root has not heard of them yet.
  at_root([&] {
    if (merges()) before_block();
  });
  share_dropped(clients_->dropped());
  const comm::ExchangeStatistics statistics = exchange.statistics();
  bytes_on_wire_ += communicator_.sum(statistics.bytes_sent);
  peak_merge_bytes_ = std::max(peak_merge_bytes_, statistics.peak_merge_bytes);
  seconds_["waiting"] += statistics.seconds_waited;
  seconds_["merging"] += statistics.seconds_merging;
  writing_blocks_ += merger.writing_seconds();
  collect_events();
  write_unfinished_links();
  if (const auto stopped = exchange.stopped_at())
    throw Stopped(fmt::format("stopped{} before block {} of round {}; the same command goes on from there",
                              signals_.stop_signal().empty() ? "" : " on " + signals_.stop_signal(), *stopped,
                              plan.round));
  stop_if_asked(fmt::format("after round {}", plan.round));
}

/// To the end of the exchange, good or bad, while signals reach it.
void PruneRun::run_clients(const RoundPlan& plan, comm::Exchange& exchange) {
  struct Listening {
    PruneRun& run;
    Listening(PruneRun& owner, comm::Exchange& heard) : run(owner) { run.listen(heard); }
    ~Listening() { run.signals_.listen({}); }
  };
  const Listening listening(*this, exchange);
  try {
    clients_->run_round(plan, exchange);
  } catch (...) {
    exchange.fail(current_error());
  }
  exchange.finish();
}

/// Collective: what each rank knows of clients left out comes to all, for the plans that follow.
void PruneRun::share_dropped(const std::vector<DroppedClient>& mine) {
  const std::vector<std::string> found = communicator_.gather(store::to_json(mine).dump());
  at_root([&] {
    bool changed = false;
    for (const std::string& text : found)
      for (const DroppedClient& one : store::dropped_from_json(nlohmann::json::parse(text)))
        changed |= note_dropped(one);
    if (changed) store::write_identity(paths_.dir / "resume.json", identity_);
  });
  identity_.dropped = store::dropped_from_json(
      nlohmann::json::parse(communicator_.broadcast(store::to_json(identity_.dropped).dump())));
}

/// At the root: says that a client was left out, and remembers it. False when it is known already.
bool PruneRun::note_dropped(const DroppedClient& one) {
  if (is_dropped(identity_.dropped, one.client)) return false;
  identity_.dropped.push_back(one);
  log_->warn("{}", dropped_text(one));
  metrics_->write({"client_dropped",
                   {{"client", config_.clients[one.client].name},
                    {"round", one.from.round},
                    {"block", one.from.block},
                    {"reason", one.reason}}});
  return true;
}

std::string PruneRun::dropped_text(const DroppedClient& one) const {
  return fmt::format("client '{}' is left out from block {} of round {} on: {}",
                     config_.clients[one.client].name, one.from.block, one.from.round, one.reason);
}

/// At the root, before a merged block counts: who was dropped is on disk earlier than what was merged without
/// them, or a later process would compute another block.
void PruneRun::before_block() {
  const std::scoped_lock lock(exchange_mutex_);
  bool changed = false;
  for (const comm::Dropped& one : exchange_->dropped())
    changed |= note_dropped({one.client, {round_, one.block}, one.reason});
  if (changed) store::write_identity(paths_.dir / "resume.json", identity_);
}

/// Of the root, in this round. Blocks overlap on their way: part of a block's bytes may come before the block
/// before it is written.
std::int64_t PruneRun::received_since_last_block() {
  const std::scoped_lock lock(exchange_mutex_);
  const std::int64_t all = exchange_->statistics().bytes_received;
  return all - std::exchange(received_, all);
}

/// Runs on a thread of the exchange (or, without merging, on the client thread).
void PruneRun::on_block(const BlockSummary& summary) {
  dropped_weights_[summary.block] = summary.dropped;
  status_.running(phase_, summary.round, summary.block);
  const std::int64_t number =
      blocks_before(shape_, {summary.round, static_cast<std::uint32_t>(summary.block)});
  watchdog_.beat(phase::pruning, number);
  const double sparsity =
      static_cast<double>(summary.dropped) / static_cast<double>(std::max<std::int64_t>(1, summary.weights));
  const std::string line = progress_->block_done({.block = number,
                                                  .error = summary.error,
                                                  .sparsity = sparsity,
                                                  .client_blocks = summary.clients,
                                                  .weights = summary.weights * summary.clients});
  if (!line.empty()) log_->info("{}", line);
  warnings_.add(summary);
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
                    {"rank", summary.rank},
                    {"seconds", now()},
                    {"bytes", received_since_last_block()},
                    {"error", summary.error},
                    {"sparsity", sparsity},
                    {"expanded", summary.expanded},
                    {"damping_steps", summary.damping_steps},
                    {"above_target", summary.above_target},
                    {"recomputed", summary.recomputed},
                    {"merge_seconds", summary.merge_seconds},
                    {"write_seconds", summary.write_seconds}}});
}

void PruneRun::evaluate_results() {
  if (inputs_.evaluations.empty()) return;
  enter(phase::evaluation);
  if (merges()) evaluate_merged();
  if (config_.report.standalone || !merges()) evaluate_standalone();
}

void PruneRun::evaluate_merged() {
  // On every rank of a shared file system, else at the root: what another rank has of that name is of another
  // run.
  std::unique_ptr<model::ModelDirectory> merged;
  communicator_.together([&] {
    if (root() || shared_folder_) merged = std::make_unique<model::ModelDirectory>(paths_.model());
  });
  const bool sees = merged != nullptr;
  const model::ModelDirectory& model = sees ? *merged : *inputs_.model;
  merged_ = evaluate(communicator_, model, *backend_, interruptible(report::dense_source(model, *backend_)),
                     inputs_.evaluations, sees, "the merged model");
  at_root([&] { write_metrics("merged", merged_); });
  for (std::size_t set = 0; set < merged_.size(); ++set)
    log_->info("merged perplexity on '{}': {:.4f}", inputs_.evaluations[set].name, merged_[set].perplexity);
}

void PruneRun::evaluate_standalone() {
  std::vector<OwnModel> own;
  for (const LocalClient& client : inputs_.clients) {
    if (is_dropped(identity_.dropped, client.index)) continue;  // it has no model of its own
    const auto store = std::make_shared<store::BlockStore>(store::BlockStore::of_client(paths_, client.name));
    own.push_back({client.name, interruptible([this, store](std::int64_t block) {
                     model::BlockWeights weights = model::load_block(*inputs_.model, block, *backend_);
                     if (const auto record = store->newest(static_cast<std::uint32_t>(block)))
                       apply_record(*backend_, *record, weights);
                     return weights;
                   })});
  }
  standalone_ = evaluate_own(communicator_, *inputs_.model, *backend_, own, inputs_.evaluations);
  at_root([&] {
    for (const auto& [client, results] : standalone_) write_metrics(client, results);
  });
}

void PruneRun::write_metrics(const std::string& model, const std::vector<report::Perplexity>& results) {
  for (std::size_t set = 0; set < results.size(); ++set)
    metrics_->write({"evaluation",
                     {{"model", model},
                      {"set", inputs_.evaluations[set].name},
                      {"perplexity", results[set].perplexity}}});
}

}  // namespace fedspallm::app
