// SPDX-License-Identifier: Apache-2.0
#include "client.hpp"

#include "fedspallm/base/error.hpp"

#include "block_merger.hpp"
#include "overlay.hpp"
#include <algorithm>
#include <map>
#include <new>
#include <optional>

namespace fedspallm::app {

struct LocalClients::Client {
  const LocalClient* input = nullptr;
  prune::BlockPruner pruner;
  std::optional<store::BlockStore> own = std::nullopt;  // clients/NAME.h5
  std::optional<store::StateStore> states = std::nullopt;
  store::Position from = {};                            // where it begins in this process
  std::optional<store::Position> saved = std::nullopt;  // the newest state on its way to disk
  std::map<std::int64_t, std::int64_t> dropped = {};    // weights by block
  bool counted = true;                                  // `dropped` has all blocks
};

namespace {

constexpr std::int64_t kMeasuredFloats = std::int64_t{1} << 24;  // 64 MiB tell how quick a disk takes a state

/// Blocks of clients' own files and states that wait for the disk, besides the one that is being written: a
/// slow disk holds the clients up rather than filling the memory with blocks.
constexpr std::size_t kWaitingWrites = 2;

/// Why `step` failed, where that is a client's own failure: numbers, or memory for them. "" = it did not
/// fail.
std::string failure_of(const std::function<void()>& step) {
  try {
    step();
  } catch (const Error& error) {
    if (error.status() != ExitStatus::numerical && error.status() != ExitStatus::no_resources) throw;
    return error.what();
  } catch (const std::bad_alloc&) {
    return "out of memory";
  }
  return "";
}

/// A want of memory gets the client's name: with fewer samples it may fit.
void naming_memory(const std::string& client, const std::function<void()>& step) {
  try {
    step();
  } catch (const ResourceError& error) {
    throw ResourceError(fmt::format("client '{}': {}", client, error.what()));
  } catch (const std::bad_alloc&) {
    throw ResourceError(
        fmt::format("client '{}': out of memory; use fewer samples or put fewer clients on a rank", client));
  }
}

/// Numerical errors, too, where they do not have it yet.
void named(const std::string& client, const std::function<void()>& step) {
  try {
    naming_memory(client, step);
  } catch (const NumericalError& error) {
    throw NumericalError(fmt::format("client '{}': {}", client, error.what()));
  }
}

}  // namespace

LocalClients::LocalClients(backend::Backend& backend, const config::Config& config, const Inputs& inputs,
                           std::chrono::steady_clock::time_point start, Hooks hooks)
    : backend_(backend),
      config_(config),
      inputs_(inputs),
      start_(start),
      hooks_(std::move(hooks)),
      writer_(kWaitingWrites) {
  if (inputs.clients.empty()) return;
  workspace_ = std::make_unique<prune::Workspace>(backend, inputs.model->architecture(),
                                                  config.calibration.sequence_length);
  for (const LocalClient& input : inputs.clients) {
    const prune::BlockPruner::Identity identity{
        .client = input.index,
        .name = input.name,
        .seed = config.run.seed,
        .send_diagonal = sends_diagonal(config),
        .hidden_on_device =
            hooks_.hidden_on_device.empty() ||
            hooks_.hidden_on_device.at(static_cast<std::size_t>(&input - inputs.clients.data())),
        .stay_on_device =
            hooks_.updates_on_device && !config.run.keep_clients};  // its own file needs them here
    // Embeds the client's text: a token whose embedding is broken is met here.
    const auto add = [&] {
      clients_.push_back(std::make_unique<Client>(
          Client{&input, prune::BlockPruner(backend, *inputs.model, *workspace_, input.windows, identity)}));
    };
    if (!drops_failing()) {
      named(input.name, add);
    } else if (const std::string reason = failure_of(add); !reason.empty()) {
      dropped_.push_back({input.index, {1, 0}, reason});
    }
  }
}

LocalClients::~LocalClients() = default;

double LocalClients::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void LocalClients::open_files(std::uint64_t run_id, bool goes_on) {
  for (auto& client : clients_) {
    client->states = store::StateStore::of_client(config_.run.dir, client->input->name, run_id);
    if (!goes_on) client->states->clear();
    if (!config_.run.keep_clients) continue;
    client->own = store::BlockStore::of_client({config_.run.dir}, client->input->name);
    if (!goes_on) client->own->clear();
    if (const std::string remark = client->own->recover(); !remark.empty()) hooks_.warn(remark);
  }
}

std::vector<ClientFiles> LocalClients::files() const {
  std::vector<ClientFiles> result;
  for (const auto& client : clients_)
    result.push_back({client->input->index, &*client->states, client->own ? &*client->own : nullptr,
                      client->pruner.hidden_rows(), client->pruner.hidden_cols()});
  return result;
}

void LocalClients::count_before() {
  for (auto& client : clients_) {
    client->counted = client->own.has_value() || client->from == store::Position{1, 0};
    if (!client->own) continue;
    try {
      for (const auto& [round, block] : client->own->blocks()) {  // ascending
        if (store::Position{round, block} >= client->from) continue;
        client->dropped[block] =
            app::dropped_weights(client->own->read_block(round, block, store::Votes::skip));
      }
    } catch (const DataError&) {  // a damaged block of a client that was left out: nobody needs it
      client->counted = false;
    }
  }
}

std::vector<std::pair<std::uint32_t, std::int64_t>> LocalClients::dropped_weights() const {
  std::vector<std::pair<std::uint32_t, std::int64_t>> result;
  for (const auto& client : clients_) {
    if (!client->counted) continue;
    std::int64_t all = 0;
    for (const auto& [block, dropped] : client->dropped) all += dropped;
    result.emplace_back(client->input->index, all);
  }
  return result;
}

std::int64_t LocalClients::mean_dropped(std::int64_t block) const {
  std::int64_t all = 0;
  for (const auto& client : clients_)
    if (const auto found = client->dropped.find(block); found != client->dropped.end()) all += found->second;
  return clients_.empty() ? 0 : all / static_cast<std::int64_t>(clients_.size());
}

void LocalClients::forget_what_follows() {
  for (auto& client : clients_) {
    client->states->forget_after(client->from);
    if (client->own) client->own->forget_from(client->from.round, client->from.block);
  }
}

void LocalClients::begin_at(const std::vector<store::Position>& starts) {
  require(starts.size() == clients_.size(), "LocalClients::begin_at: a position for each client");
  for (std::size_t i = 0; i < starts.size(); ++i) clients_[i]->from = starts[i];
}

LocalClients::Cost LocalClients::measure() {
  if (clients_.empty()) return {};
  Client& client = *clients_.front();
  const std::int64_t columns = client.pruner.hidden_cols();
  std::int64_t all_rows = 0;
  for (const auto& each : clients_) all_rows += each->pruner.hidden_rows();
  const auto part = [&](std::int64_t most) { return std::min(most, client.pruner.hidden_rows()); };
  Cost cost;
  // Embedded windows, at a position that never counts: before the first block nothing needs a state.
  const std::int64_t saved = part(std::max<std::int64_t>(1, kMeasuredFloats / columns));
  double begin = now();
  save_state(backend_, client.pruner.hidden().row_range(0, saved), *client.states, {1, 0}, writer_);
  cost.save_seconds = (now() - begin) * static_cast<double>(all_rows) / static_cast<double>(saved);
  writer_.finish();
  client.states->remove({1, 0});
  // Forward, Hessians, factorizations and sweeps together take about three forward passes.
  constexpr double kPasses = 3;
  const model::BlockWeights weights = model::load_block(*inputs_.model, 0, backend_);
  const std::int64_t passed = part(workspace_->batch_rows());
  const backend::View trial = workspace_->stage(passed, columns);  // pruning will need as much of it
  backend_.copy(client.pruner.hidden().row_range(0, passed), trial);
  double seconds = 0;
  for (int repetition = 0; repetition < 2; ++repetition) {  // the first one warms up
    begin = now();
    workspace_->forward().forward(weights, trial);
    backend_.synchronize();
    seconds = now() - begin;
  }
  cost.block_seconds = kPasses * seconds * static_cast<double>(all_rows) / static_cast<double>(passed);
  return cost;
}

/// After the last block that it prunes in the round, a client's hidden states serve nobody.
LocalClients::Way LocalClients::way_of(const RoundPlan& plan, const Client& client) const {
  const std::uint32_t index = client.input->index;
  const std::vector<bool>& drawn = plan.drawn[index];
  Way way{.first = 0, .end = plan.delivers_until[index]};
  if (client.from.round == plan.round) way.first = client.from.block;
  if (client.from.round > plan.round) way.first = way.end;
  while (way.end > way.first && !drawn[static_cast<std::size_t>(way.end - 1)]) --way.end;
  return way;
}

void LocalClients::begin(const RoundPlan& plan) {
  for (auto& client : clients_) {
    const Way way = way_of(plan, *client);
    if (way.first >= way.end) continue;
    if (way.first > 0) {
      load_state(backend_, *client->states, client->from, client->pruner.hidden());
      client->saved = client->from;
    } else if (plan.round > 1) {
      client->pruner.restart(client->input->windows);
    }
  }
}

void LocalClients::run_round(const RoundPlan& plan, comm::Exchange& exchange) {
  begin(plan);
  const std::int64_t blocks = inputs_.model->architecture().blocks;
  // A rank that has nothing to do must not run ahead through the boundaries: a stop would come late for all.
  for (std::int64_t block = plan.exchange.first_block; block < blocks && anybody_left(plan, exchange, block);
       ++block) {
    const store::Position position{plan.round, static_cast<std::uint32_t>(block)};
    const comm::Boundary boundary = exchange.at_boundary(position.block);
    if (boundary != comm::Boundary::go_on)
      for (auto& client : clients_)
        if (active(plan, exchange, *client, block)) save(*client, position);
    if (boundary == comm::Boundary::stop) break;
    const auto is_active = [&](const auto& client) { return active(plan, exchange, *client, block); };
    if (std::none_of(clients_.begin(), clients_.end(), is_active)) continue;  // they begin later
    inputs_.model->will_need_block(block + 1);
    if (hooks_.load_ahead) model::prefetch_block(*inputs_.model, block + 1, backend_);
    const Base base = base_of(plan, exchange, block);
    double error = 0;
    for (auto& client : clients_) {
      if (!active(plan, exchange, *client, block)) continue;
      error += prune_block(plan, exchange, base, *client, block);
      const store::Position next{plan.round, position.block + 1};
      if (next.block < blocks && next.block % blocks_between_states_ == 0 &&
          active(plan, exchange, *client, block + 1))
        save(*client, next);
    }
    forget(exchange, position);
    hooks_.after_block(block, error);
  }
  writer_.finish();
}

bool LocalClients::active(const RoundPlan& plan, const comm::Exchange& exchange, const Client& client,
                          std::int64_t block) const {
  const Way way = way_of(plan, client);
  return way.first <= block && block < way.end && !exchange.is_dropped(client.input->index);
}

bool LocalClients::anybody_left(const RoundPlan& plan, const comm::Exchange& exchange,
                                std::int64_t block) const {
  return std::any_of(clients_.begin(), clients_.end(), [&](const auto& client) {
    const Way way = way_of(plan, *client);
    return way.first < way.end && block < way.end && !exchange.is_dropped(client->input->index);
  });
}

LocalClients::Base LocalClients::base_of(const RoundPlan& plan, comm::Exchange& exchange,
                                         std::int64_t block) {
  Base base;
  if (plan.round == 1 || !merges()) return base;
  const std::vector<std::byte> bytes = exchange.fetch(static_cast<std::uint32_t>(block));
  if (bytes.empty()) return base;  // nobody has pruned this block yet
  base.record = store::decode_block(bytes);
  base.previous = masks_of(base.record);
  return base;
}

model::BlockWeights LocalClients::load(const Base& base, std::int64_t block) {
  model::BlockWeights weights = model::load_block(*inputs_.model, block, backend_);
  if (!base.record.matrices.empty()) apply_record(backend_, base.record, weights);
  return weights;
}

/// What a client made of a block and has not delivered yet.
struct LocalClients::BlockResult {
  std::vector<std::pair<std::size_t, wire::MatrixUpdate>> updates;
  std::shared_ptr<store::BlockRecord> kept = std::make_shared<store::BlockRecord>();
  double error = 0;
  std::int64_t dropped = 0;
  prune::PhaseSeconds seconds;
};

double LocalClients::prune_block(const RoundPlan& plan, comm::Exchange& exchange, const Base& base,
                                 Client& client, std::int64_t block) {
  const double begin = now();
  hooks_.beat(plan.round, block);
  BlockResult result;
  result.kept->round = plan.round;
  result.kept->block = static_cast<std::uint32_t>(block);
  const auto sink = [&](std::size_t matrix, wire::MatrixUpdate update) {
    hooks_.beat(plan.round, block);
    result.error += update.report.error;
    result.dropped += update.matrix.dropped();
    if (client.own) {
      store::MatrixRecord& record = result.kept->matrices.emplace_back();
      record.name = inputs_.model->matrix_name(block, matrix);
      record.matrix = update.matrix;
      record.kept_zeros = update.report.kept_zeros;
      record.keep = plan.settings.pattern.keep;
      record.group = plan.settings.pattern.group;
      record.clients = {{client.input->index, update.matrix.kept, update.report}};
    }
    // A client that may be left out from this block on delivers the block as a whole or not at all.
    if (drops_failing())
      result.updates.emplace_back(matrix, std::move(update));
    else
      deliver(plan, exchange, block, matrix, std::move(update));
  };
  model::BlockWeights weights = load(base, block);  // what is wrong with them is every client's failure
  const auto compute = [&] {
    if (!plan.drawn[client.input->index][static_cast<std::size_t>(block)]) {
      result.seconds = client.pruner.pass_block(weights);
      return;
    }
    std::vector<DType> dtypes;
    for (std::size_t matrix = 0; matrix < weights.matrices.size(); ++matrix)
      dtypes.push_back(wire_dtype(config_, *inputs_.model, block, matrix));
    result.seconds =
        client.pruner.prune_block(plan.settings, plan.round, weights, dtypes, base.previous, sink);
  };
  if (!compute_or_drop(plan, exchange, client, block, compute)) return 0;
  for (auto& [matrix, update] : result.updates) deliver(plan, exchange, block, matrix, std::move(update));
  if (client.own && !result.kept->matrices.empty())
    writer_.post([&own = *client.own, kept = result.kept] { own.write_block(*kept); });
  if (plan.drawn[client.input->index][static_cast<std::size_t>(block)])
    client.dropped[block] = result.dropped;
  record_event(plan, client, block, result.seconds, begin);
  return result.error;
}

void LocalClients::deliver(const RoundPlan& plan, comm::Exchange& exchange, std::int64_t block,
                           std::size_t matrix, wire::MatrixUpdate update) {
  const std::size_t unit = plan.unit[static_cast<std::size_t>(block)][matrix];
  if (unit == kNoUnit) return;  // nothing is merged, or this was merged by an earlier process
  // Other clients forget their states of the blocks before this one once it is merged: ours must be on disk.
  writer_.finish();
  exchange.submit(unit, std::move(update));
}

/// A failure is the client's own only while it computes: what the exchange or a damaged model throws is
/// everybody's. False when the client was left out.
bool LocalClients::compute_or_drop(const RoundPlan& plan, comm::Exchange& exchange, Client& client,
                                   std::int64_t block, const std::function<void()>& compute) {
  if (!drops_failing()) {
    naming_memory(client.input->name, compute);
    return true;
  }
  const std::string reason = failure_of(compute);
  if (reason.empty()) return true;
  // What was merged before counts, though it cannot be computed again.
  const std::int64_t first = merges() ? std::max(block, plan.first_block) : block;
  const store::Position from{plan.round, static_cast<std::uint32_t>(first)};
  dropped_.push_back({client.input->index, from, reason});
  exchange.drop(client.input->index, from.block, reason);
  return false;
}

void LocalClients::save(Client& client, store::Position position) {
  if (position.block == 0 || client.saved == position) return;
  const double begin = now();
  save_state(backend_, client.pruner.hidden(), *client.states, position, writer_);
  client.saved = position;
  saving_seconds_ += now() - begin;
}

/// Two generations at least, and what the client itself could need: a later process begins at its newest
/// state that is not after what it has still to deliver, and the root may know less merged than we heard.
void LocalClients::forget(const comm::Exchange& exchange, store::Position position) {
  std::uint32_t keep = position.block >= blocks_between_states_ ? position.block - blocks_between_states_ : 0;
  if (merges()) {
    const std::uint32_t durable = exchange.durable_block();
    keep = std::min(keep, durable > 0 ? durable - 1 : 0);
  }
  if (keep == 0) return;
  for (auto& client : clients_) client->states->forget_before({position.round, keep});
}

void LocalClients::record_event(const RoundPlan& plan, const Client& client, std::int64_t block,
                                const prune::PhaseSeconds& seconds, double begin) {
  seconds_.forward += seconds.forward;
  seconds_.hessian += seconds.hessian;
  seconds_.factorize += seconds.factorize;
  seconds_.prune += seconds.prune;
  seconds_.pack += seconds.pack;
  const double end = now();
  hooks_.tell({.name = "client_block",
               .fields = {{"round", plan.round},
                          {"block", block},
                          {"client", client.input->name},
                          {"begin", begin},
                          {"end", end},
                          {"seconds", end - begin},
                          {"forward_seconds", seconds.forward},
                          {"hessian_seconds", seconds.hessian},
                          {"factorize_seconds", seconds.factorize},
                          {"prune_seconds", seconds.prune},
                          {"pack_seconds", seconds.pack}},
               .stamp = report::stamp_now()});
}

void LocalClients::finish(const store::Provenance& provenance, const std::vector<DroppedClient>& dropped) {
  for (auto& client : clients_) {
    if (client->own)
      client->own->write_links(provenance, /*complete=*/!is_dropped(dropped, client->input->index));
    client->states->clear();  // nothing is left that could need them
  }
}

}  // namespace fedspallm::app
