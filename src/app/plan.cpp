// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/error.hpp"

#include <algorithm>

namespace fedspallm::app {

std::vector<int> ranks_of_clients(const config::Config& config, int ranks) {
  std::vector<int> result;
  std::string problems;  // of all clients, so that one message tells of all that is wrong
  for (std::size_t client = 0; client < config.clients.size(); ++client) {
    const int rank =
        config.clients[client].rank.value_or(static_cast<int>(client % static_cast<std::size_t>(ranks)));
    if (rank < 0 || rank >= ranks)
      problems +=
          fmt::format("{}client.{}.rank: found {}, expected 0 .. {} (this run has {} ranks)",
                      problems.empty() ? "" : "\n", config.clients[client].name, rank, ranks - 1, ranks);
    result.push_back(rank);
  }
  check<ConfigError>(problems.empty(), problems);
  return result;
}

DType wire_dtype(const config::Config& config, const model::ModelDirectory& model, std::int64_t block,
                 std::size_t matrix) {
  return config.model.dtype == config::ModelDType::float32 ? DType::f32 : model.matrix_dtype(block, matrix);
}

bool sends_diagonal(const config::Config& config) {
  return config::needs_hessian(config.prune.method) && config.federation.mask_expansion &&
         config.federation.tie == config::Tie::score &&
         config.federation.aggregation != config::Aggregation::none;
}

namespace {

aggregate::MergeRules rules_of(const config::Config& config, const prune::Settings& settings) {
  aggregate::MergeRules rules;
  rules.averaging = config.federation.aggregation == config::Aggregation::mean ? aggregate::Averaging::mean
                                                                               : aggregate::Averaging::l0;
  rules.expand = config.federation.mask_expansion;
  switch (config.federation.tie) {
    case config::Tie::score:
      rules.tie = sends_diagonal(config) ? aggregate::TieRule::score : aggregate::TieRule::magnitude;
      break;
    case config::Tie::magnitude:
      rules.tie = aggregate::TieRule::magnitude;
      break;
    case config::Tie::index:
      rules.tie = aggregate::TieRule::index;
      break;
  }
  rules.sparsity = settings.sparsity;
  rules.keep = settings.pattern.keep;
  rules.group = settings.pattern.group;
  return rules;
}

}  // namespace

std::vector<std::vector<bool>> draw_round(const config::Config& config, std::int64_t blocks,
                                          std::uint32_t round) {
  if (config.federation.layer_sampling == config::LayerSampling::none)
    return {config.clients.size(), std::vector<bool>(static_cast<std::size_t>(blocks), true)};
  std::vector<double> resources;
  for (const auto& client : config.clients) resources.push_back(client.resources);
  return aggregate::draw_blocks(resources, blocks, config.run.seed, round);
}

namespace {

/// Kept weights of a client's matrix: exact, or with count = "published" what its rule gives without ties.
std::int64_t expected_kept(const prune::Settings& settings, std::int64_t rows, std::int64_t cols) {
  if (settings.count == config::Count::exact || settings.pattern.structured())
    return rows * cols - exact_count(settings.sparsity, rows * cols);
  std::int64_t kept = rows * cols;
  for (std::int64_t c = 0; c < cols; c += settings.block_size) {
    const std::int64_t size = rows * std::min(settings.block_size, cols - c);
    kept -= std::min(size, static_cast<std::int64_t>(static_cast<double>(size) * settings.sparsity) + 1);
  }
  return kept;
}

/// By client, the block of this round from which on it delivers nothing.
std::vector<std::int64_t> delivery_ends(std::size_t clients, std::int64_t blocks, std::uint32_t round,
                                        const std::vector<DroppedClient>& dropped) {
  std::vector<std::int64_t> ends(clients, blocks);
  for (const DroppedClient& one : dropped) {
    require(one.client < clients, "plan_round: a dropped client is one of the config");
    if (one.from.round > round) continue;
    const std::int64_t end = one.from.round == round ? one.from.block : 0;
    ends[one.client] = std::min(ends[one.client], end);
  }
  return ends;
}

/// The clients that prune a block, ascending.
std::vector<std::uint32_t> clients_of_block(const RoundPlan& plan, std::int64_t block) {
  std::vector<std::uint32_t> clients;
  for (std::size_t client = 0; client < plan.drawn.size(); ++client)
    if (plan.drawn[client][static_cast<std::size_t>(block)] && block < plan.delivers_until[client])
      clients.push_back(static_cast<std::uint32_t>(client));
  return clients;
}

void plan_block(const config::Config& config, const PlanModel& model, std::int64_t block, RoundPlan& plan) {
  const std::vector<model::MatrixShape>& matrices = model.architecture.matrices;
  auto& units = plan.unit.emplace_back(matrices.size(), kNoUnit);
  comm::ClientList clients = clients_of_block(plan, block);
  const auto& before = plan.exchange.units;
  if (!before.empty() && before.back().clients == clients)
    clients = before.back().clients;  // one list for all blocks, where all clients prune all of them
  if (clients.empty()) plan.uncovered.push_back(block);
  const bool merges = config.federation.aggregation != config::Aggregation::none;
  std::size_t group_leader = 0;
  for (std::size_t matrix = 0; matrix < matrices.size(); ++matrix) {
    const model::MatrixShape& shape = matrices[matrix];
    const std::string name = model::matrix_name(model.architecture, block, matrix);
    prune::MatrixPruner::check_shape(plan.settings, name, shape.cols);
    if (clients.empty() || !merges || block < plan.first_block) continue;
    const bool first = matrix == 0 || matrices[matrix - 1].group != shape.group;
    units[matrix] = plan.exchange.units.size();
    if (first) group_leader = units[matrix];
    plan.exchange.units.push_back(
        {.id = {plan.round, static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(matrix)},
         .name = name,
         .rows = shape.rows,
         .cols = shape.cols,
         .dtype = model.dtype(block, matrix),
         .with_diagonal = first && sends_diagonal(config),
         .diagonal_unit = group_leader,
         .clients = clients,
         .expected_kept = expected_kept(plan.settings, shape.rows, shape.cols)});
  }
}

[[noreturn]] void refuse_uncovered(const config::Config& config, const RoundPlan& plan, std::int64_t blocks,
                                   const std::vector<DroppedClient>& dropped) {
  std::string message = fmt::format(
      "{} of {} blocks are pruned by no client (the first is block {}): give the clients more "
      "resources, or set federation.coverage = \"warn\" to leave them dense",
      plan.uncovered.size(), blocks, plan.uncovered.front());
  for (const DroppedClient& one : dropped)
    message += fmt::format("\n  client '{}' was left out: {}", config.clients[one.client].name, one.reason);
  throw ConfigError(message);
}

}  // namespace

PlanModel plan_model(const config::Config& config, const model::ModelDirectory& model) {
  return {model.architecture(), [&config, &model](std::int64_t block, std::size_t matrix) {
            return wire_dtype(config, model, block, matrix);
          }};
}

RoundPlan plan_round(const config::Config& config, const model::ModelDirectory& model,
                     const std::vector<int>& rank_of_client, store::Position start,
                     const std::vector<DroppedClient>& dropped) {
  return plan_round(config, plan_model(config, model), rank_of_client, start, dropped);
}

RoundPlan plan_round(const config::Config& config, const PlanModel& model,
                     const std::vector<int>& rank_of_client, store::Position start,
                     const std::vector<DroppedClient>& dropped) {
  const std::int64_t blocks = model.architecture.blocks;
  require(start.block <= blocks, "plan_round: the first block is one of the model");
  RoundPlan plan;
  plan.round = start.round;
  plan.first_block = start.block;
  plan.exchange.first_block = start.block;
  plan.settings = prune::settings_of_round(config, static_cast<int>(start.round));
  plan.rules = rules_of(config, plan.settings);
  plan.drawn = draw_round(config, blocks, start.round);
  plan.delivers_until = delivery_ends(plan.drawn.size(), blocks, start.round, dropped);
  plan.exchange.rank_of_client = rank_of_client;
  for (const auto& client : config.clients) plan.exchange.client_names.push_back(client.name);
  for (std::int64_t block = 0; block < blocks; ++block) plan_block(config, model, block, plan);
  if (config.federation.coverage == config::Coverage::required && !plan.uncovered.empty())
    refuse_uncovered(config, plan, blocks, dropped);
  return plan;
}

}  // namespace fedspallm::app
