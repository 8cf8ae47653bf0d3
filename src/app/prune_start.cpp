// SPDX-License-Identifier: Apache-2.0
// The begin of a run: whose directory it is, whether an earlier process left work in it, and from where to go
// on.
#include "fedspallm/base/error.hpp"
#include "fedspallm/report/system.hpp"

#include <fmt/ranges.h>

#include "gpu_forecast.hpp"
#include "plan.hpp"
#include "prune_run.hpp"
#include "setup.hpp"
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>

namespace fedspallm::app {

namespace {

std::uint64_t random_id() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

nlohmann::json to_json(const RunIdentity& identity) {
  return {
      {"run_id", identity.run_id}, {"facts", identity.facts}, {"dropped", store::to_json(identity.dropped)}};
}

/// Whether blocks come out otherwise by other facts. Where no more than a client's text is gone, they do only
/// for want of that client: blocks that still had it cannot be made again and stay (BlockMerger).
bool computes_otherwise(std::map<std::string, std::string> before, std::map<std::string, std::string> now) {
  for (auto fact = now.begin(); fact != now.end();) {
    const bool text_gone = fact->first.ends_with(".tokens_sha256") && fact->second.empty();
    if (text_gone) before.erase(fact->first);
    fact = text_gone ? now.erase(fact) : std::next(fact);
  }
  return before != now;
}

RunIdentity from_json(const nlohmann::json& content) {
  return {.run_id = content["run_id"],
          .facts = content["facts"],
          .dropped = store::dropped_from_json(content["dropped"])};
}

}  // namespace

void PruneRun::open_directory() {
  const auto make_log_folder = [&] {
    std::error_code error;
    std::filesystem::create_directories(paths_.dir / "logs", error);
    check<ResourceError>(
        !error, fmt::format("{}: cannot be created: {}", (paths_.dir / "logs").string(), error.message()));
  };
  communicator_.together([&] {
    if (!root()) return;
    lock_ = &status_.keep(std::make_unique<store::RunLock>(paths_.dir, leave_directory));
    make_log_folder();
    std::error_code ignored;
    std::filesystem::remove(paths_.summary(), ignored);
    status_.running(phase_);
    store_.emplace(store::BlockStore::of_run(paths_));
  });
  communicator_.together([&] {
    make_log_folder();
    log_ = std::make_unique<Logger>(
        communicator_.rank(),
        (paths_.dir / "logs" / fmt::format("rank_{:04}.log", communicator_.rank())).string(),
        options_.quiet ? LogLevel::warning : LogLevel::info);
  });
  const model::Architecture& architecture = inputs_.model->architecture();
  log_->info("{}: {} model, {} blocks, {} prunable weights; {} clients on {} ranks, {} threads a rank, {}",
             config_.model.path.string(), architecture.family, architecture.blocks,
             inputs_.model->prunable_weights(), config_.clients.size(), communicator_.size(), threads_,
             backend_->kernel_set());
  for (const auto& [name, value] : facts_)
    if (name == "gpus") log_->info("GPUs:\n{}", value);
  if (device_.warn) log_->warn("updates go through host memory, not from GPU to GPU: {}", device_.reason);
  if (root() && !lock_->taken_over().empty()) log_->warn("{}", lock_->taken_over());
  if (root() && lock_->lease_only())
    log_->warn("{}: flock does not work here; a lease file alone keeps other jobs out", paths_.dir.string());
  if (options_.watchdog == 0.0)
    log_->warn("--watchdog 0: should a rank be lost or stuck, the others wait for it without end");
  for (const std::string& warning : inputs_.warnings) log_->warn("{}", warning);
  decide_identity();
  find_shared_folder();
  communicator_.together([&] {
    if (merges())
      writer_ = std::make_unique<store::ModelWriter>(*inputs_.model, paths_.model(),
                                                     config_.model.dtype == config::ModelDType::float32);
    if (!root()) return;
    if (writer_ != nullptr) writer_->start();
    store::write_file_atomically(paths_.config(), config::to_toml(config_));
    metrics_ = std::make_unique<report::MetricsWriter>(paths_.metrics());
    progress_ = std::make_unique<report::Progress>(architecture.blocks * config_.federation.rounds,
                                                   /*to_terminal=*/!options_.quiet && report::is_terminal());
    const bool required = config_.federation.coverage == config::Coverage::required;
    ledger_ = std::make_unique<RootLedger>(
        *store_, required,
        RootLedger::Hooks{[this] { before_block(); },
                          [this](const BlockSummary& summary) { on_block(summary); }});
    for (const DroppedClient& one : identity_.dropped) log_->warn("{}", dropped_text(one));
    metrics_->write({goes_on_ ? "run_resumed" : "run_started",
                     {{"ranks", communicator_.size()}, {"clients", config_.clients.size()}}});
  });
  share_dropped(inputs_.dropped);
}

/// Whether the directory holds an unfinished run of the same model, texts and configuration.
void PruneRun::decide_identity() {
  nlohmann::json decision;
  const std::string kernels = joined_kernel_sets(
      communicator_.gather(inputs_.clients.empty() ? std::string() : backend_->kernel_set()));
  communicator_.together([&] {
    if (!root()) return;
    const std::filesystem::path file = paths_.dir / "resume.json";
    const std::string digest = inputs_.model->digest(threads_, [this] { watchdog_.beat(phase_); });
    const auto facts = identity_facts(config_, digest, inputs_.token_sha256, kernels);
    std::optional<RunIdentity> before;
    bool forced = false;
    if (!options_.restart) before = store::read_identity(file);
    if (before) {
      const std::vector<std::string> differing = differences(before->facts, facts);
      check<ConfigError>(
          differing.empty() || options_.force_resume,
          fmt::format("{} holds an unfinished run that differs from this one:\n  {}\nUse another run.dir, "
                      "--restart to start over, or --force-resume to go on all the same",
                      paths_.dir.string(), fmt::join(differing, "\n  ")));
      for (const std::string& line : differing) warn("--force-resume: " + line);
      forced = computes_otherwise(before->facts, facts);
      for (const DroppedClient& one : before->dropped)
        check<DataError>(
            one.client < config_.clients.size(),
            fmt::format("{}: client {} was dropped, but there are {} clients; --restart starts over",
                        file.string(), one.client, config_.clients.size()));
      identity_ = *before;
      if (const std::string remark = store_->recover(); !remark.empty()) log_->warn("{}", remark);
    } else {
      start_over();
    }
    if (!forced) identity_.facts = facts;  // else when nothing is left that the old ones decided
    store::write_identity(file, identity_);
    if (kernels.find(kKernelSetsJoin) != std::string::npos)
      warn(fmt::format(
          "ranks prune with different kernels ({}): a client's bits depend on the rank that works "
          "for it; FEDSPALLM_ISA chooses one set for all CPUs",
          kernels));
    decision = to_json(identity_);
    decision["goes_on"] = before.has_value();
    if (forced) decision["forced_facts"] = facts;
  });
  decision = nlohmann::json::parse(communicator_.broadcast(decision.dump()));
  if (!root()) identity_ = from_json(decision);
  goes_on_ = decision["goes_on"];
  if (decision.contains("forced_facts")) forced_facts_ = decision["forced_facts"];
}

/// Collective, after --force-resume of a run that differs: blocks from the start on were computed in another
/// way and come out otherwise now. They and the states behind the start must be gone, on all ranks, before
/// the new facts count: a process that is killed in between has to be forced again.
void PruneRun::replace_what_differs() {
  if (!forced_facts_) return;
  communicator_.together([&] {
    if (root() && merges()) store_->forget_from(begin_.merging.round, begin_.merging.block);
    clients_->forget_what_follows();
  });
  identity_.facts = *forced_facts_;
  at_root([&] { store::write_identity(paths_.dir / "resume.json", identity_); });
}

/// Collective: whether every rank finds what the root has just put into its run directory. Where ranks have
/// folders of their own, the root alone writes what is one for all.
void PruneRun::find_shared_folder() {
  const std::filesystem::path probe = paths_.dir / "probe";
  std::string mark;
  at_root([&] {
    mark = fmt::format("{:016x}", random_id());
    store::write_file_atomically(probe, mark);
  });
  mark = communicator_.broadcast(std::move(mark));
  std::string found;
  std::ifstream(probe) >> found;
  shared_folder_ = communicator_.maximum(found == mark ? 0 : 1) == 0;
  std::error_code ignored;
  if (root()) std::filesystem::remove(probe, ignored);
  if (!shared_folder_)
    log_->info(
        "not every rank sees the run directory of rank 0, which therefore writes all blocks and the model");
}

/// At the root: nothing of an earlier run counts from here on.
void PruneRun::start_over() {
  std::error_code error;
  std::filesystem::remove(paths_.dir / "resume.json", error);
  store_->clear();
  for (const std::filesystem::path& old :
       {paths_.dir / "state", paths_.clients(), paths_.model(), paths_.dir / "report.html"}) {
    std::filesystem::remove_all(old, error);
    check<ResourceError>(!error, fmt::format("{}: cannot be removed: {}", old.string(), error.message()));
  }
  identity_ = {.run_id = random_id(), .facts = {}, .dropped = {}};
}

LocalClients::Hooks PruneRun::client_hooks() {
  LocalClients::Hooks hooks;
  hooks.after_block = [this](std::int64_t block, double error) {
    if (merges() || !root()) return;
    BlockSummary summary{.round = round_, .block = block, .error = error};
    summary.clients = static_cast<std::int64_t>(inputs_.clients.size());
    summary.dropped = clients_->mean_dropped(block);
    for (const auto& matrix : inputs_.model->architecture().matrices)
      summary.weights += matrix.rows * matrix.cols;
    on_block(summary);
  };
  hooks.beat = [this](std::uint32_t round, std::int64_t block) {
    watchdog_.beat(phase::pruning, blocks_before(shape_, {round, static_cast<std::uint32_t>(block)}));
  };
  hooks.warn = [this](const std::string& message) { log_->warn("{}", message); };
  hooks.tell = [this](report::Event event) {
    if (root()) {
      event.fields["rank"] = communicator_.rank();
      metrics_->write(event);
    } else {
      events_.push_back(report::to_json(event));
    }
  };
  hooks.updates_on_device = device_.transport != nullptr;
  place_on_gpu(hooks);
  return hooks;
}

/// What of this rank's work stays in its GPU's memory.
void PruneRun::place_on_gpu(LocalClients::Hooks& hooks) const {
  if (!own_gpu(communicator_, *backend_) || inputs_.clients.empty()) return;
  GpuWork work = gpu_work(config_, *inputs_.model, inputs_.rank_of_client, communicator_.rank(),
                          device_.transport != nullptr);
  work.tokens.clear();  // clients that failed already are not among these
  for (const LocalClient& client : inputs_.clients)
    work.tokens.push_back(client.windows.samples * client.windows.length);
  const GpuForecast forecast = forecast_gpu(inputs_.model->architecture(), work);
  const std::int64_t memory = gpu_memory_of_rank(backend::visible_cuda_devices(), communicator_.node_size());
  const GpuPlan plan = plan_gpu(forecast, memory);
  hooks.hidden_on_device = plan.hidden.on_device;
  hooks.load_ahead = plan.load_ahead;
  log_->info("{}", to_text(communicator_.rank(), forecast, memory));
  if (!plan.fits)
    log_->warn(
        "the GPU's memory may not do ({} bytes are needed, {} are there): use fewer samples, a shorter "
        "calibration.sequence_length, or fewer ranks on this GPU",
        plan.peak_bytes, memory);
}

void PruneRun::find_position() {
  communicator_.together([&] {
    clients_.emplace(*backend_, config_, inputs_, start_, client_hooks());
    clients_->open_files(identity_.run_id, goes_on_);
  });
  share_dropped(clients_->dropped());
  at_root([&] {  // a client that delivers nothing clears no file of its own either
    for (const DroppedClient& one : identity_.dropped)
      if (!goes_on_ && config_.run.keep_clients)
        store::BlockStore::of_client(paths_, config_.clients[one.client].name).clear();
  });
  communicator_.together([&] {  // refuses blocks that nobody is left for, before they count as done
    for (std::uint32_t round = 1; round <= shape_.rounds; ++round)
      (void)plan_round(config_, *inputs_.model, inputs_.rank_of_client, {round, 0}, identity_.dropped);
  });
  const Watch watch{.say = [this](const std::string& line) { log_->warn("{}", line); },
                    .beat = [this] { watchdog_.beat(phase_); },
                    .see = [this](const store::BlockRecord& record) { warnings_.add(record); }};
  Merged merged{.until = end_of(shape_)};
  communicator_.together([&] {
    if (root() && merges()) merged = merged_until(*store_, shape_, identity_.dropped, watch);
  });
  begin_ = find_start(communicator_, shape_, merged.until, clients_->files(), identity_.dropped, watch);
  clients_->begin_at(begin_.clients);
  if (!goes_on_) return;
  log_->info("going on with block {} of round {}", begin_.first.block, begin_.first.round);
  if (merges() && begin_.first < begin_.merging)
    log_->info("... with client states from there on; what is merged before block {} of round {} stays",
               begin_.merging.block, begin_.merging.round);
  replace_what_differs();
  communicator_.together([&] { clients_->count_before(); });
  dropped_weights_ = std::move(merged.dropped);
  // Of blocks that are merged, or of the root's own clients. end_of() is after all of them.
  store::Position shown = begin_.merging;
  if (!merges() && !begin_.clients.empty())
    shown = *std::min_element(begin_.clients.begin(), begin_.clients.end());
  if (root()) progress_->skip(blocks_before(shape_, shown));
}

void PruneRun::choose_state_distance() {
  std::int64_t distance = config_.run.checkpoint_every;
  if (distance == 0) {
    LocalClients::Cost cost;
    communicator_.together([&] { cost = clients_->measure(); });
    distance = communicator_.maximum(blocks_between_states(cost.save_seconds, cost.block_seconds));
    log_->debug("saving all states of this rank takes {:.3f} s, a block about {:.3f} s", cost.save_seconds,
                cost.block_seconds);
  }
  log_->info("clients' states are saved every {} block{}", distance, distance == 1 ? "" : "s");
  clients_->set_blocks_between_states(static_cast<std::uint32_t>(distance));
}

}  // namespace fedspallm::app
