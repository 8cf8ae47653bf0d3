// SPDX-License-Identifier: Apache-2.0
#include "comm/exchange_case.hpp"

#include "fedspallm/base/random.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

namespace fedspallm::comm::test {

namespace {

std::uint64_t draw(std::uint64_t seed, std::uint32_t a, std::uint32_t b, std::uint64_t index) {
  return random_bits({.seed = seed, .use = RandomUse::simulation, .client = a, .block = b}, index);
}

int rank_of(std::uint32_t client, const CaseOptions& options) {
  switch (options.placement) {
    case Placement::round_robin:
      return static_cast<int>(client) % options.ranks;
    case Placement::all_on_root:
      return 0;
    case Placement::all_on_last:
      return options.ranks - 1;
    case Placement::none_on_root:
      return options.ranks == 1 ? 0 : 1 + static_cast<int>(client) % (options.ranks - 1);
  }
  return 0;
}

/// Values of very different size, from 15 bits, so that an inexact sum would show.
float value_of(std::uint64_t bits) {
  const auto mantissa = static_cast<float>(static_cast<std::int64_t>(bits & 0x7ff) - 1024);
  return std::ldexp(mantissa, -static_cast<int>(bits >> 11 & 15));
}

}  // namespace

std::string name_of(Way way) {
  constexpr const char* names[] = {"gather", "reduce", "nccl", "owners", "nodes"};
  return names[static_cast<int>(way)];
}

namespace {

bool same(const aggregate::MergedMatrix& a, const aggregate::MergedMatrix& b) {
  return a.matrix == b.matrix && a.votes == b.votes && a.histogram == b.histogram &&
         a.common_zeros == b.common_zeros && a.expanded == b.expanded && a.target == b.target &&
         a.above_target == b.above_target && a.kept_zeros == b.kept_zeros;
}

}  // namespace

bool operator==(const Seen& a, const Seen& b) {
  const bool same_reports = a.clients == b.clients && a.kept == b.kept && a.errors == b.errors;
  if (a.finished && b.finished) return same_reports && same(*a.finished, *b.finished);
  return same_reports && a.tiles.size() == b.tiles.size() &&
         std::memcmp(a.tiles.data(), b.tiles.data(), a.tiles.size() * sizeof(aggregate::Tile)) == 0 &&
         a.diagonal_sums == b.diagonal_sums && a.q == b.q && a.diagonal_q == b.diagonal_q;
}

ExchangePlan make_plan(const CaseOptions& options) {
  ExchangePlan plan;
  for (std::uint32_t client = 0; client < options.clients; ++client)
    plan.rank_of_client.push_back(rank_of(client, options));
  for (std::uint32_t block = 0; block < options.blocks; ++block) {
    std::vector<std::uint32_t> clients;
    for (std::uint32_t client = 0; client < options.clients; ++client) {
      const bool takes_part =
          !options.sampled || client == block % options.clients || draw(3, client, block, 0) % 2 == 0;
      if (takes_part) clients.push_back(client);
    }
    const std::size_t first = plan.units.size();
    for (std::uint32_t matrix = 0; matrix < options.shapes.size(); ++matrix) {
      const Shape& shape = options.shapes[matrix];
      const bool shares = matrix == 1 && shape.cols == options.shapes[0].cols;
      PlannedUnit unit;
      unit.id = {1, block, matrix};
      unit.name = fmt::format("model.layers.{}.matrix{}.weight", block, matrix);
      unit.rows = shape.rows;
      unit.cols = shape.cols;
      unit.dtype = shape.dtype;
      unit.with_diagonal = options.diagonals && !shares;
      unit.diagonal_unit = shares ? first : plan.units.size();
      unit.clients = clients;
      plan.units.push_back(unit);
    }
  }
  return plan;
}

wire::MatrixUpdate make_update(const ExchangePlan& plan, std::size_t index, std::uint32_t client) {
  const PlannedUnit& unit = plan.units[index];
  const auto size = static_cast<std::size_t>(unit.rows * unit.cols);
  const auto stream = static_cast<std::uint32_t>(index);
  std::vector<float> dense(size);
  std::vector<std::uint8_t> kept(size);
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < size; ++i) {  // four weights a draw: sanitizer builds are slow at drawing
    bits = i % 4 == 0 ? draw(7, client, stream, i / 4) : bits >> 16;
    kept[i] = bits & 1;
    dense[i] = value_of(bits >> 1 & 0x7fff);
  }
  wire::MatrixUpdate update;
  update.unit = unit.id;
  update.client = client;
  update.matrix = wire::pack(unit.rows, unit.cols, unit.dtype, dense, kept);
  if (unit.with_diagonal) {
    for (std::int64_t c = 0; c < unit.cols; ++c) {
      update.hessian_diagonal.push_back(
          std::abs(value_of(draw(8, client, stream, static_cast<std::uint64_t>(c)))));
    }
  }
  update.report.error = client + 0.5 * static_cast<double>(index);
  update.report.seconds = 0.25;
  return update;
}

wire::MatrixUpdate with_kept(const ExchangePlan& plan, std::size_t index, std::uint32_t client,
                             std::int64_t kept) {
  wire::MatrixUpdate update = make_update(plan, index, client);
  const auto size = static_cast<std::size_t>(update.matrix.size());
  std::vector<float> dense(size, 0.25F);
  std::vector<std::uint8_t> mask(size);
  for (std::size_t i = 0; i < static_cast<std::size_t>(kept); ++i) mask[(i * 7 + client) % size] = 1;
  update.matrix = wire::pack(update.matrix.rows, update.matrix.cols, update.matrix.dtype, dense, mask);
  return update;
}

Seen copy_of(const CompletedUnit& unit) {
  Seen seen;
  if (unit.finished != nullptr) {
    seen.finished = std::move(*unit.finished);
  } else {
    seen.tiles.assign(unit.merge->tiles().begin(), unit.merge->tiles().end());
    seen.diagonal_sums.assign(unit.diagonal_sums.begin(), unit.diagonal_sums.end());
    seen.q = unit.merge->scale().q;
    seen.diagonal_q = unit.diagonal_scale.q;
  }
  for (const UpdateSummary& report : unit.reports) {
    seen.clients.push_back(report.client);
    seen.kept.push_back(report.kept);
    seen.errors.push_back(report.report.error);
  }
  return seen;
}

std::vector<Seen> merge_serially(const ExchangePlan& plan) {
  std::vector<Seen> all;
  for (std::size_t index = 0; index < plan.units.size(); ++index) {
    const PlannedUnit& unit = plan.units[index];
    std::vector<wire::MatrixUpdate> updates;
    float largest = 0, largest_diagonal = 0;
    Seen seen;
    if (unit.clients.empty()) {
      all.push_back(seen);
      continue;
    }
    for (const std::uint32_t client : unit.clients) {
      updates.push_back(make_update(plan, index, client));
      largest = std::max(largest, wire::largest_magnitude(updates.back().matrix));
      for (const float value : updates.back().hessian_diagonal)
        largest_diagonal = std::max(largest_diagonal, value);
      seen.clients.push_back(client);
      seen.kept.push_back(updates.back().matrix.kept);
      seen.errors.push_back(updates.back().report.error);
    }
    const auto clients = static_cast<std::int64_t>(unit.clients.size());
    const auto scale = aggregate::FixedPoint::covering(largest, clients);
    const auto diagonal_scale = aggregate::FixedPoint::covering(largest_diagonal, clients);
    aggregate::PartialMerge merge(unit.rows, unit.cols, scale, diagonal_scale);
    for (const auto& update : updates) {
      merge.add(update.matrix);
      if (!update.hessian_diagonal.empty()) merge.add_diagonal(update.hessian_diagonal);
    }
    seen.tiles.assign(merge.tiles().begin(), merge.tiles().end());
    seen.q = scale.q;
    if (unit.with_diagonal) {
      seen.diagonal_sums.assign(merge.diagonal_sums().begin(), merge.diagonal_sums().end());
      seen.diagonal_q = diagonal_scale.q;
    } else if (unit.diagonal_unit != index) {
      seen.diagonal_sums = all[unit.diagonal_unit].diagonal_sums;
      seen.diagonal_q = all[unit.diagonal_unit].diagonal_q;
    }
    aggregate::MergeRules rules;
    if (seen.diagonal_sums.empty()) rules.tie = aggregate::TieRule::magnitude;
    seen.finished = aggregate::finish(merge, clients, rules, unit.dtype, seen.diagonal_sums);
    all.push_back(std::move(seen));
  }
  return all;
}

void deliver_all(Exchange& exchange, const ExchangePlan& plan, int rank, std::uint64_t seed) {
  for (std::size_t index = 0; index < plan.units.size(); ++index) {
    std::vector<std::uint32_t> own;
    for (const std::uint32_t client : plan.units[index].clients) {
      if (plan.rank_of_client[client] == rank) own.push_back(client);
    }
    const auto stream = static_cast<std::uint32_t>(index);
    if (seed != 0) {
      std::sort(own.begin(), own.end(),
                [&](auto a, auto b) { return draw(seed, a, stream, 0) < draw(seed, b, stream, 0); });
    }
    for (const std::uint32_t client : own) {
      if (seed != 0 && draw(seed, client, stream, 1) % 4 == 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(draw(seed, client, stream, 2) % 3000));
      }
      exchange.submit(index, make_update(plan, index, client));
    }
  }
}

Outcome run_exchange(Communicator& comm, const ExchangePlan& plan, const ExchangeOptions& options,
                     std::uint64_t seed) {
  Outcome outcome;
  Exchange exchange(comm, plan, options, [&](const CompletedUnit& unit) {
    outcome.order.push_back(unit.index);
    outcome.seen.push_back(copy_of(unit));
  });
  deliver_all(exchange, plan, comm.rank(), seed);
  exchange.finish();
  outcome.statistics = exchange.statistics();
  return outcome;
}

namespace {

/// What this rank's clients deliver of a block, by client, in order.
std::vector<std::pair<std::size_t, std::uint32_t>> deliveries(const ExchangePlan& plan, int rank,
                                                              std::uint32_t block) {
  std::vector<std::pair<std::size_t, std::uint32_t>> all;
  for (std::uint32_t client = 0; client < plan.rank_of_client.size(); ++client) {
    for (std::size_t index = 0; index < plan.units.size(); ++index) {
      const PlannedUnit& unit = plan.units[index];
      const bool delivers = std::count(unit.clients.begin(), unit.clients.end(), client) > 0;
      if (unit.id.block == block && delivers && plan.rank_of_client[client] == rank)
        all.emplace_back(index, client);
    }
  }
  return all;
}

}  // namespace

Walk walk(Exchange& exchange, const ExchangePlan& plan, int rank, const WalkOptions& options,
          std::uint32_t first) {
  Walk walked;
  const auto& ranks = plan.rank_of_client;
  if (std::count(ranks.begin(), ranks.end(), rank) == 0) return walked;
  const ExchangePlan left = without(plan, options.drops);
  for (std::uint32_t block = first; block < options.blocks; ++block) {
    if (options.before_boundary) options.before_boundary(block);
    const Boundary what = exchange.at_boundary(block);
    if (what == Boundary::stop) {
      walked.stopped = block;
      return walked;
    }
    if (what == Boundary::save) walked.saved.push_back(block);
    walked.begun.push_back(block);
    for (const auto& [client, from] : options.drops) {
      if (from == block && ranks[client] == rank) exchange.drop(client, block, "bad tokens");
    }
    const auto all = deliveries(left, rank, block);
    for (const auto& [index, client] : all) {
      if (options.seed != 0)
        std::this_thread::sleep_for(std::chrono::microseconds(
            draw(options.seed, client, static_cast<std::uint32_t>(index), 5) % 1500));
      const bool last = std::pair(index, client) == all.back();
      if (last && options.before_last_submit) options.before_last_submit(block);
      exchange.submit(index, make_update(plan, index, client));
    }
  }
  return walked;
}

void remove_clients(PlannedUnit& unit, const std::function<bool(std::uint32_t client)>& which) {
  std::vector<std::uint32_t> left(unit.clients.begin(), unit.clients.end());
  std::erase_if(left, which);
  unit.clients = left;
}

ExchangePlan without(ExchangePlan plan, const std::map<std::uint32_t, std::uint32_t>& drops) {
  for (PlannedUnit& unit : plan.units) {
    remove_clients(unit, [&](std::uint32_t client) {
      const auto drop = drops.find(client);
      return drop != drops.end() && unit.id.block >= drop->second;
    });
  }
  return plan;
}

std::string thrown_by(const std::function<void()>& step) {
  try {
    step();
  } catch (const Error& error) {
    return fmt::format("{}: {}", static_cast<int>(error.status()), error.what());
  }
  return "";
}

}  // namespace fedspallm::comm::test
