// SPDX-License-Identifier: Apache-2.0
// Purpose: the clients of one rank: each prunes block after block and hands its updates to the exchange and,
// where asked, to its own file. Blocks are the outer loop and clients the inner one, so the rank holds one
// block's weights. Their hidden states are saved on the way, so that a later process can go on.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/comm/exchange.hpp"
#include "fedspallm/prune/block_pruner.hpp"
#include "fedspallm/report/metrics.hpp"
#include "fedspallm/store/run_store.hpp"
#include "fedspallm/store/state_store.hpp"

#include "background.hpp"
#include "checkpoint.hpp"
#include "inputs.hpp"
#include "plan.hpp"
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace fedspallm::app {

class LocalClients {
 public:
  struct Hooks {
    /// After each block, with the sum of errors (progress without a root).
    std::function<void(std::int64_t block, double error)> after_block;
    /// This rank made progress (watchdog).
    std::function<void(std::uint32_t round, std::int64_t block)> beat;
    std::function<void(const std::string& message)> warn;  // what is worth a line in the log
    /// What a client did, as it happens (metrics.jsonl).
    std::function<void(report::Event event)> tell;
    std::vector<bool> hidden_on_device = {};  // by client of this rank; empty = all stay
    bool load_ahead = false;                  // the next block's weights come to the device meanwhile
    bool updates_on_device = false;           // they are sent from the backend's memory (transport nccl)
  };

  /// @param start  zero of the time line in events
  /// @throws NumericalError naming the client whose text cannot be embedded, unless it is to be dropped
  LocalClients(backend::Backend& backend, const config::Config& config, const Inputs& inputs,
               std::chrono::steady_clock::time_point start, Hooks hooks);
  ~LocalClients();

  /// The run's identity is known: from here on the clients have files. Removes those of other runs unless the
  /// run goes on.
  void open_files(std::uint64_t run_id, bool goes_on);
  /// For dropped_weights(), where a run goes on, after begin_at(): what the clients' own files have before
  /// that.
  void count_before();
  /// What lies on disk after begin_at()'s positions is of another computation: it is removed.
  void forget_what_follows();
  /// For find_start(); valid until the next call of a member.
  [[nodiscard]] std::vector<ClientFiles> files() const;
  /// Where each begins, in the order of files().
  void begin_at(const std::vector<store::Position>& starts);
  /// What saving the states of all clients costs, beside what pruning a block for all of them will take.
  struct Cost {
    double save_seconds = 0;   // measured on a part of one client's state
    double block_seconds = 0;  // estimated from one batch's forward pass
  };
  /// Before a round; disturbs no hidden state that counts.
  [[nodiscard]] Cost measure();
  void set_blocks_between_states(std::uint32_t blocks) { blocks_between_states_ = blocks; }

  /// The round's blocks, each client from where it begins to the last one it prunes; fewer where the exchange
  /// says stop. Blocks before plan.first_block are merged already: nothing of them is delivered.
  void run_round(const RoundPlan& plan, comm::Exchange& exchange);
  /// Writes the linking files of clients/NAME.h5; those of dropped clients stay marked as incomplete.
  void finish(const store::Provenance& provenance, const std::vector<DroppedClient>& dropped);

  /// Clients of this rank, by number, with the weights that each has dropped, in the newest round that pruned
  /// a block. A client that went on without a file of its own knows nothing of earlier blocks: nothing.
  [[nodiscard]] std::vector<std::pair<std::uint32_t, std::int64_t>> dropped_weights() const;
  /// Of one block, the mean of the clients of this rank.
  [[nodiscard]] std::int64_t mean_dropped(std::int64_t block) const;
  /// Clients of this rank that failed and were left out (federation.on_client_failure = "drop"), also
  /// already in the constructor.
  [[nodiscard]] const std::vector<DroppedClient>& dropped() const { return dropped_; }
  /// Seconds per phase, summed over the rank's clients.
  [[nodiscard]] const prune::PhaseSeconds& seconds() const { return seconds_; }
  /// Seconds of the client thread that went into saving states, and their number.
  [[nodiscard]] double saving_seconds() const { return saving_seconds_; }

 private:
  struct Client;
  /// Weights from which a client starts block `block` in this round, and what was dropped before.
  struct Base {
    store::BlockRecord record;  // empty in round 1
    prune::PreviousMasks previous;
  };
  struct BlockResult;
  /// Blocks that a client goes through in a round: [first, end), empty where it has nothing to do.
  struct Way {
    std::int64_t first = 0, end = 0;
  };
  [[nodiscard]] Way way_of(const RoundPlan& plan, const Client& client) const;
  void begin(const RoundPlan& plan);
  [[nodiscard]] Base base_of(const RoundPlan& plan, comm::Exchange& exchange, std::int64_t block);
  [[nodiscard]] model::BlockWeights load(const Base& base, std::int64_t block);
  [[nodiscard]] bool active(const RoundPlan& plan, const comm::Exchange& exchange, const Client& client,
                            std::int64_t block) const;
  /// Whether anybody of this rank has something to do in `block` or after it.
  [[nodiscard]] bool anybody_left(const RoundPlan& plan, const comm::Exchange& exchange,
                                  std::int64_t block) const;
  double prune_block(const RoundPlan& plan, comm::Exchange& exchange, const Base& base, Client& client,
                     std::int64_t block);
  void deliver(const RoundPlan& plan, comm::Exchange& exchange, std::int64_t block, std::size_t matrix,
               wire::MatrixUpdate update);
  bool compute_or_drop(const RoundPlan& plan, comm::Exchange& exchange, Client& client, std::int64_t block,
                       const std::function<void()>& compute);
  void save(Client& client, store::Position position);
  void forget(const comm::Exchange& exchange, store::Position position);
  void record_event(const RoundPlan& plan, const Client& client, std::int64_t block,
                    const prune::PhaseSeconds& seconds, double begin);
  [[nodiscard]] bool merges() const { return config_.federation.aggregation != config::Aggregation::none; }
  [[nodiscard]] bool drops_failing() const {
    return config_.federation.on_client_failure == config::OnClientFailure::drop;
  }
  [[nodiscard]] double now() const;

  backend::Backend& backend_;
  const config::Config& config_;
  const Inputs& inputs_;
  std::chrono::steady_clock::time_point start_;
  Hooks hooks_;
  std::unique_ptr<prune::Workspace> workspace_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<DroppedClient> dropped_;
  std::uint32_t blocks_between_states_ = 1;
  prune::PhaseSeconds seconds_;
  double saving_seconds_ = 0;
  Background writer_;
};

}  // namespace fedspallm::app
