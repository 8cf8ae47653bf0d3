// SPDX-License-Identifier: Apache-2.0
#include "simulate_run.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/comm/cost_model.hpp"
#include "fedspallm/report/system.hpp"
#include "fedspallm/store/run_store.hpp"

#include "block_merger.hpp"
#include "simulate_updates.hpp"
#include <algorithm>
#include <chrono>
#include <optional>

namespace fedspallm::app {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// What the root does with complete merges: finishes, digests and, where asked, writes them.
class Finisher {
 public:
  explicit Finisher(const SimulatedExchange& what) : what_(what) {
    if (what.folder.empty()) return;
    store_.emplace(store::BlockStore::of_run({what.folder}));
    store_->clear();
  }

  void complete(const comm::CompletedUnit& unit) {
    const comm::PlannedUnit& planned = what_.plan.exchange.units.at(unit.index);
    if (unit.merge == nullptr && unit.finished == nullptr) {
      check<DataError>(what_.config.federation.coverage == config::Coverage::warn,
                       fmt::format("{}: all clients that should prune it were dropped; more clients, or "
                                   "federation.coverage = \"warn\", which leaves it as it is",
                                   planned.name));
      return;
    }
    auto start = Clock::now();
    store::MatrixRecord record = finish_matrix(unit, planned, what_.plan.rules).record;
    finishing += seconds_since(start);
    digest_.add(std::as_bytes(std::span(record.matrix.bits)));
    digest_.add(record.matrix.values);
    digest_.add(std::as_bytes(std::span(record.votes)));
    if (!store_) return;
    start = Clock::now();
    if (record_.matrices.empty()) record_ = {planned.id.round, planned.id.block, {}};
    record_.matrices.push_back(std::move(record));
    const std::size_t next = unit.index + 1;
    if (next == what_.plan.exchange.units.size() ||
        what_.plan.exchange.units[next].id.block != planned.id.block) {
      store_->write_block(record_);
      record_ = {};
    }
    writing += seconds_since(start);
  }

  [[nodiscard]] std::string digest() const { return fmt::format("{:016x}", digest_.value()); }
  double finishing = 0, writing = 0;

 private:
  const SimulatedExchange& what_;
  RunningChecksum digest_;
  std::optional<store::BlockStore> store_;
  store::BlockRecord record_;
};

/// This rank's clients: they announce each unit, and their updates are made when they are due. Owners have to
/// know each update when it is announced, so there all are made first: making them is no part of the
/// exchange.
class Hosts {
 public:
  Hosts(const SimulatedExchange& what, int rank)
      : what_(what), maker_(what.plan.exchange, what.config.prune.pattern, what.config.run.seed) {
    const auto& ranks = what.plan.exchange.rank_of_client;
    for (std::uint32_t client = 0; client < ranks.size(); ++client)
      if (ranks[client] == rank) clients_.push_back(client);
  }

  /// Bytes of all updates that this rank's clients deliver.
  [[nodiscard]] std::int64_t update_bytes() const {
    std::int64_t bytes = 0;
    each_update([&](std::size_t index, std::uint32_t) {
      const comm::PlannedUnit& unit = what_.plan.exchange.units[index];
      bytes += wire::encoded_bytes(unit.rows, unit.cols, unit.expected_kept, unit.dtype, unit.with_diagonal);
    });
    return bytes;
  }

  void make_ahead() {
    each_update([this](std::size_t index, std::uint32_t client) {
      ahead_.emplace(std::pair(index, client), maker_.make(index, client));
    });
  }

  void deliver(comm::Exchange& exchange) {
    const auto& units = what_.plan.exchange.units;
    std::optional<std::uint32_t> begun;
    for (std::size_t index = 0; index < units.size(); ++index) {
      const std::uint32_t block = units[index].id.block;
      if (begun != block) {
        if (clients_.empty()) return;  // a rank without clients holds nobody up
        (void)exchange.at_boundary(block);
        drop(exchange, block);
        begun = block;
      }
      std::vector<comm::UpdateSummary> summaries;
      for (const std::uint32_t client : clients_)
        if (units[index].clients.contains(client)) summaries.push_back(maker_.summary(index, client));
      exchange.submit_later(index, std::move(summaries),
                            [this, index](std::uint32_t client) { return update(index, client); });
    }
  }

 private:
  template <class Action>
  void each_update(Action action) const {
    const auto& units = what_.plan.exchange.units;
    for (std::size_t index = 0; index < units.size(); ++index)
      for (const std::uint32_t client : clients_) {
        const auto dropped = what_.dropped.find(client);
        const bool gone = dropped != what_.dropped.end() && dropped->second.block <= units[index].id.block;
        if (!gone && units[index].clients.contains(client)) action(index, client);
      }
  }

  [[nodiscard]] wire::MatrixUpdate update(std::size_t index, std::uint32_t client) {
    auto made = ahead_.extract({index, client});  // owners ask for it on this thread
    return made.empty() ? maker_.make(index, client) : std::move(made.mapped());
  }

  void drop(comm::Exchange& exchange, std::uint32_t block) {
    std::erase_if(clients_, [&](std::uint32_t client) {
      const auto found = what_.dropped.find(client);
      if (found == what_.dropped.end() || found->second.block > block) return false;
      exchange.drop(client, block, found->second.reason);
      return true;
    });
  }

  const SimulatedExchange& what_;
  UpdateMaker maker_;
  std::vector<std::uint32_t> clients_;  // that are left
  std::map<std::pair<std::size_t, std::uint32_t>, wire::MatrixUpdate> ahead_;
};

/// Refuses to make more than there is room for: the kernel would end a rank in the middle.
void check_room(const Hosts& hosts, int ranks_on_host) {
  const report::MemoryLimit memory = report::available_memory();
  const double most = static_cast<double>(memory.bytes) / ranks_on_host;
  const auto needed = static_cast<double>(hosts.update_bytes());
  check<ResourceError>(
      needed <= most,
      fmt::format(
          "simulate: with owners all updates of a rank's clients exist at once: {:.1f} GB, where {:.1f} "
          "GB are left for it ({}); take fewer clients, fewer simulate.blocks, more hosts, or "
          "federation.topology = \"root\"",
          needed * 1e-9, most * 1e-9, memory.source));
}

/// The plan without what dropped clients will not deliver.
comm::ExchangePlan delivered_plan(const SimulatedExchange& what) {
  comm::ExchangePlan plan = what.plan.exchange;
  if (what.dropped.empty()) return plan;
  std::optional<std::uint32_t> block;
  comm::ClientList left;
  for (comm::PlannedUnit& unit : plan.units) {
    if (block != unit.id.block) {
      block = unit.id.block;
      std::vector<std::uint32_t> clients(unit.clients.begin(), unit.clients.end());
      std::erase_if(clients, [&](std::uint32_t client) {
        const auto found = what.dropped.find(client);
        return found != what.dropped.end() && found->second.block <= *block;
      });
      left = std::move(clients);
    }
    unit.clients = left;
  }
  std::erase_if(plan.units, [](const comm::PlannedUnit& unit) { return unit.clients.empty(); });
  for (std::size_t index = 0; index < plan.units.size(); ++index) {  // units of lost blocks are gone
    const std::size_t before = plan.units[index].diagonal_unit;
    const std::uint32_t matrix = what.plan.exchange.units[before].id.matrix;
    plan.units[index].diagonal_unit = index - (plan.units[index].id.matrix - matrix);
  }
  return plan;
}

/// With owners the root tells each rank who is absent from a unit that others deliver.
std::int64_t bytes_of_absent(const comm::ExchangePlan& planned, const comm::ExchangePlan& delivered) {
  std::int64_t bytes = 0;
  auto unit = planned.units.begin();
  for (const comm::PlannedUnit& left : delivered.units) {
    while (unit->id != left.id) ++unit;
    bytes += comm::absent_bytes(std::ssize(unit->clients) - std::ssize(left.clients));
  }
  return bytes;
}

std::int64_t bytes_forecast(const SimulatedExchange& what, int rank, int ranks) {
  const comm::ExchangePlan delivered = delivered_plan(what);
  std::int64_t bytes =
      comm::closing_bytes(rank, ranks) + comm::forecast_bytes(delivered, what.options, rank, ranks);
  if (rank == 0 && what.options.topology == comm::Topology::owners)
    bytes += (ranks - 1) * bytes_of_absent(what.plan.exchange, delivered);
  if (rank == 0 || what.plan.exchange.units.empty()) return bytes;
  const std::uint32_t last = what.plan.exchange.units.back().id.block;
  for (const auto& [client, dropped] : what.dropped)
    if (what.plan.exchange.rank_of_client[client] == rank && dropped.block <= last)
      bytes += comm::drop_bytes(dropped.reason);
  return bytes;
}

}  // namespace

void keep_blocks(RoundPlan& plan, std::int64_t blocks) {
  std::erase_if(plan.exchange.units, [&](const comm::PlannedUnit& unit) { return unit.id.block >= blocks; });
}

SimulatedResult run_exchange(comm::Communicator& communicator, const SimulatedExchange& what) {
  std::unique_ptr<Finisher> finisher;
  communicator.together([&] {
    if (communicator.rank() == 0) finisher = std::make_unique<Finisher>(what);
  });
  Hosts hosts(what, communicator.rank());
  SimulatedResult result;
  if (what.options.topology == comm::Topology::owners) {
    const auto before = Clock::now();
    const auto ranks_on_host = static_cast<int>(communicator.maximum(communicator.node_size()));
    communicator.together([&] {
      check_room(hosts, ranks_on_host);
      hosts.make_ahead();
    });
    result.made_ahead = seconds_since(before);
  }
  comm::Exchange exchange(communicator, what.plan.exchange, what.options,
                          [&](const comm::CompletedUnit& unit) { finisher->complete(unit); });
  const auto start = Clock::now();
  try {
    hosts.deliver(exchange);
  } catch (const Error& error) {
    exchange.fail(error);
  }
  exchange.finish();
  result.seconds = seconds_since(start);
  const comm::ExchangeStatistics statistics = exchange.statistics();
  result.making = statistics.seconds_making;
  result.waiting = statistics.seconds_waited;
  result.bytes_sent = statistics.bytes_sent;
  result.bytes_forecast = bytes_forecast(what, communicator.rank(), communicator.size());
  result.peak_merge_bytes = statistics.peak_merge_bytes;
  result.adding = statistics.seconds_merging;
  if (finisher == nullptr) return result;
  result.finishing = finisher->finishing;
  result.writing = finisher->writing;
  result.adding -= finisher->finishing + finisher->writing;
  result.digest = finisher->digest();
  return result;
}

}  // namespace fedspallm::app
