// SPDX-License-Identifier: Apache-2.0
#include "client.hpp"

#include "overlay.hpp"
#include <optional>

namespace fedspallm::app {

struct LocalClients::Client {
  const LocalClient* input = nullptr;
  prune::BlockPruner pruner;
  std::optional<store::BlockStore> store;
};

LocalClients::LocalClients(backend::Backend& backend, const config::Config& config, const Inputs& inputs,
                           std::chrono::steady_clock::time_point start)
    : backend_(backend),
      config_(config),
      inputs_(inputs),
      start_(start),
      writer_(2 * inputs.clients.size() + 1) {
  if (inputs.clients.empty()) return;
  workspace_ = std::make_unique<prune::Workspace>(backend, inputs.model->architecture(),
                                                  config.calibration.sequence_length);
  for (const LocalClient& input : inputs.clients) {
    const prune::BlockPruner::Identity identity{input.index, input.name, config.run.seed,
                                                sends_diagonal(config)};
    clients_.push_back(std::make_unique<Client>(
        Client{&input, prune::BlockPruner(backend, *inputs.model, *workspace_, input.windows, identity),
               std::nullopt}));
    if (!config.run.keep_clients) continue;
    clients_.back()->store = store::BlockStore::of_client({config.run.dir}, input.name);
    clients_.back()->store->clear();
  }
}

LocalClients::~LocalClients() = default;

double LocalClients::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void LocalClients::run_round(const RoundPlan& plan, comm::Exchange* exchange,
                             const std::function<void(std::int64_t, double)>& on_block) {
  if (plan.round > 1)
    for (auto& client : clients_) client->pruner.restart(client->input->windows);
  for (std::int64_t block = 0; block < inputs_.model->architecture().blocks && !clients_.empty(); ++block) {
    const Base base = base_of(plan, exchange, block);
    double error = 0;
    for (auto& client : clients_) error += prune_block(plan, exchange, base, *client, block);
    on_block(block, error);
  }
  writer_.finish();
}

LocalClients::Base LocalClients::base_of(const RoundPlan& plan, comm::Exchange* exchange,
                                         std::int64_t block) {
  Base base;
  if (plan.round == 1 || exchange == nullptr) return base;
  const std::vector<std::byte> bytes = exchange->fetch(static_cast<std::uint32_t>(block));
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

double LocalClients::prune_block(const RoundPlan& plan, comm::Exchange* exchange, const Base& base,
                                 Client& client, std::int64_t block) {
  const double begin = now();
  model::BlockWeights weights = load(base, block);
  if (!plan.drawn[client.input->index][static_cast<std::size_t>(block)]) {
    record_event(plan, client, block, client.pruner.pass_block(weights), begin);
    return 0;
  }
  std::vector<DType> dtypes;
  for (std::size_t matrix = 0; matrix < weights.matrices.size(); ++matrix)
    dtypes.push_back(wire_dtype(config_, *inputs_.model, block, matrix));
  auto kept = std::make_shared<store::BlockRecord>();
  kept->round = plan.round;
  kept->block = static_cast<std::uint32_t>(block);
  double error = 0;
  const auto sink = [&](std::size_t matrix, wire::MatrixUpdate update) {
    error += update.report.error;
    if (client.store) {
      store::MatrixRecord& record = kept->matrices.emplace_back();
      record.name = inputs_.model->matrix_name(block, matrix);
      record.matrix = update.matrix;
      record.kept_zeros = update.report.kept_zeros;
      record.keep = plan.settings.pattern.keep;
      record.group = plan.settings.pattern.group;
      record.clients = {{client.input->index, update.matrix.kept, update.report}};
    }
    if (exchange != nullptr)
      exchange->submit(plan.unit[static_cast<std::size_t>(block)][matrix], std::move(update));
  };
  const prune::PhaseSeconds seconds =
      client.pruner.prune_block(plan.settings, plan.round, weights, dtypes, base.previous, sink);
  if (client.store) writer_.post([&store = *client.store, kept] { store.write_block(*kept); });
  record_event(plan, client, block, seconds, begin);
  return error;
}

void LocalClients::record_event(const RoundPlan& plan, const Client& client, std::int64_t block,
                                const prune::PhaseSeconds& seconds, double begin) {
  seconds_.forward += seconds.forward;
  seconds_.hessian += seconds.hessian;
  seconds_.factorize += seconds.factorize;
  seconds_.prune += seconds.prune;
  seconds_.pack += seconds.pack;
  events_.push_back({{"event", "client_block"},
                     {"round", plan.round},
                     {"block", block},
                     {"client", client.input->name},
                     {"begin", begin},
                     {"end", now()},
                     {"forward_seconds", seconds.forward},
                     {"hessian_seconds", seconds.hessian},
                     {"factorize_seconds", seconds.factorize},
                     {"prune_seconds", seconds.prune},
                     {"pack_seconds", seconds.pack}});
}

void LocalClients::finish(const store::Provenance& provenance) {
  for (auto& client : clients_)
    if (client->store) client->store->write_links(provenance, /*complete=*/true);
}

}  // namespace fedspallm::app
