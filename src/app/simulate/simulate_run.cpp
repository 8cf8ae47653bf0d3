// SPDX-License-Identifier: Apache-2.0
#include "simulate_run.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/comm/cost_model.hpp"
#include "fedspallm/store/run_lock.hpp"
#include "fedspallm/store/run_store.hpp"

#include "../block_merger.hpp"
#include "../setup.hpp"
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

/// What is about to be written replaces the folder's blocks: those of a run of `prune` may be days of work.
/// @throws ConfigError where there is one: before its first block it wrote files that simulate never writes
void check_no_run(const store::RunPaths& paths) {
  for (const std::filesystem::path& file : {paths.dir / "resume.json", paths.run_file()}) {
    std::error_code error;
    check<ConfigError>(!std::filesystem::exists(file, error),
                       fmt::format("simulate.checkpoint: found a run of `prune` in {} ({}), whose blocks "
                                   "simulated ones would replace, expected a folder without one: use another "
                                   "run.dir, or simulate.checkpoint = false",
                                   paths.dir.string(), file.filename().string()));
  }
}

/// What the root does with complete merges: finishes, digests and, where asked, writes them.
class Finisher {
 public:
  explicit Finisher(const SimulatedExchange& what) : what_(what) {
    if (what.folder.empty()) return;
    const store::RunPaths paths{what.folder};
    lock_ = std::make_unique<store::RunLock>(paths.dir, leave_directory);
    check_no_run(paths);
    store_.emplace(store::BlockStore::of_run(paths));
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
  std::unique_ptr<store::RunLock> lock_;
  std::optional<store::BlockStore> store_;
  store::BlockRecord record_;
};

/// This rank's clients: they announce each unit, and their updates, or slices of them, are made when they are
/// due.
class Hosts {
 public:
  Hosts(const SimulatedExchange& what, int rank)
      : what_(what), maker_(what.plan.exchange, what.config.prune.pattern, what.config.run.seed) {
    const auto& ranks = what.plan.exchange.rank_of_client;
    for (std::uint32_t client = 0; client < ranks.size(); ++client)
      if (ranks[client] == rank) clients_.push_back(client);
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
      exchange.submit_later(
          index, std::move(summaries),
          [this, index](std::uint32_t client) { return maker_.make(index, client); }, slices_of(index));
    }
  }

 private:
  [[nodiscard]] comm::MakeSlices slices_of(std::size_t index) const {
    comm::MakeSlices slices;
    slices.kept = [this, index](std::uint32_t, std::span<const aggregate::Slice> wanted) {
      std::vector<std::int64_t> kept;
      for (const aggregate::Slice& slice : wanted) kept.push_back(maker_.kept_of(index, slice));
      return kept;
    };
    slices.make = [this, index](std::uint32_t client, const aggregate::Slice& slice) {
      return maker_.make_slice(index, client, slice);
    };
    slices.diagonal = [this, index](std::uint32_t client) { return maker_.make_diagonal(index, client); };
    return slices;
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
};

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
  std::optional<Hosts> hosts;
  communicator.together([&] {
    hosts.emplace(what, communicator.rank());
    if (communicator.rank() == 0) finisher = std::make_unique<Finisher>(what);
  });
  SimulatedResult result;
  comm::Exchange exchange(communicator, what.plan.exchange, what.options,
                          [&](const comm::CompletedUnit& unit) { finisher->complete(unit); });
  const auto start = Clock::now();
  try {
    hosts->deliver(exchange);
  } catch (...) {
    exchange.fail(current_error());
  }
  exchange.finish();
  result.seconds = seconds_since(start);
  const comm::ExchangeStatistics statistics = exchange.statistics();
  result.making = statistics.seconds_making;
  result.making_in_the_way = result.making;
  if (what.options.topology == comm::Topology::owners)
    result.making_in_the_way =
        static_cast<double>(communicator.maximum(static_cast<std::int64_t>(result.making * 1e9))) * 1e-9;
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
