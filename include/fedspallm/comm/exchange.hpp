// SPDX-License-Identifier: Apache-2.0
// Purpose: what is said about matrices during one round: clients' updates travel to the root, which hands
// each complete merge to a callback; in later rounds merged blocks travel back down. One communication thread
// per rank makes all MPI calls while an exchange lives (rulings.md 21), sleeping when idle, so a client's
// thread never waits for the network except when its window (bounded) is full. Both transports give the same
// bits. Non-goals: finishing a merge, files.
#pragma once

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/comm/communicator.hpp"
#include "fedspallm/wire/update.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::comm {

enum class Transport { reduce, gather };

/// One matrix that will be merged: known to all ranks beforehand, in the order in which clients deliver.
struct PlannedUnit {
  wire::UnitId id;
  std::string name;  // tensor name, for messages
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  DType dtype = DType::f32;
  bool with_diagonal = false;  // its updates carry diag(H)
  std::size_t diagonal_unit =
      0;  // index in the plan of the unit whose updates carry diag(H) for this one's input group
  std::vector<std::uint32_t> clients;  // that deliver it, ascending; not empty
  std::int64_t expected_kept = -1;     // per client, when the count is exact; -1 = unknown. For forecasts
};

struct ExchangePlan {
  std::vector<PlannedUnit> units;   // by (block, matrix)
  std::vector<int> rank_of_client;  // for every client of the config
};

/// What one client says of a unit before (and besides) its payload.
struct ClientReport {
  std::uint32_t client = 0;
  std::int64_t kept = 0;
  wire::MatrixReport report;
};

/// A complete merge, at the root. Valid during the callback only.
struct CompletedUnit {
  std::size_t index = 0;  // in the plan
  const aggregate::PartialMerge* merge = nullptr;
  std::span<const std::int64_t> diagonal_sums;  // of its input group; empty when no diagonal travels
  aggregate::FixedPoint diagonal_scale;
  std::vector<ClientReport> reports;  // by client
};

struct ExchangeOptions {
  Transport transport = Transport::gather;
  std::int64_t chunk_bytes = 1 << 20;  // of the reduce pipeline; rounded down to whole tiles, at least one
  int window_blocks = 2;               // blocks of a rank's clients in flight before submit() waits
  std::int64_t message_limit = std::int64_t{1}
                               << 30;  // longer transfers become several messages (tests set it small)
  /// Tests: sees each encoded update before it travels (gather), on the client's thread.
  std::function<void(std::span<std::byte>)> before_send = {};
};

struct ExchangeStatistics {
  std::int64_t bytes_sent = 0;  // by this rank over MPI, everything counted
  std::int64_t bytes_received = 0;
  std::int64_t messages_sent = 0;
  double seconds_waited = 0;          // submit() and fetch() blocked
  double seconds_merging = 0;         // root: PartialMerge::add and callbacks
  std::int64_t peak_merge_bytes = 0;  // root: merge states + receive buffers
};

class Exchange {
 public:
  /// Called at the root, on the merge thread, in the order of the plan, one at a time. An exception ends the
  /// run on all ranks.
  using OnCompleted = std::function<void(const CompletedUnit&)>;
  /// Called at the root, on a thread of its own or the client's, one at a time: the bytes of a merged block
  /// for clients of the next round. Asked once where several ranks want the same block.
  using Provider = std::function<std::vector<std::byte>(std::uint32_t block)>;

  /// Collective. `on_completed` and `provider` are used at the root only.
  Exchange(Communicator& communicator, ExchangePlan plan, ExchangeOptions options, OnCompleted on_completed,
           Provider provider = {});
  /// Not collective: after finish() or a failure it returns at once; otherwise it fails the exchange first.
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  /// Hands over one client's update of the unit `index` of the plan. Every client delivers its units in plan
  /// order; within a block the clients of a rank may come in any order, but no client may be `window_blocks`
  /// blocks ahead of another one of its rank, for submit() waits while so many blocks are in flight.
  /// @throws the exchange's failure, if there is one
  void submit(std::size_t index, wire::MatrixUpdate update);
  /// A merged block of the previous round, from the root. Waits.
  [[nodiscard]] std::vector<std::byte> fetch(std::uint32_t block);
  /// Collective: all delivered, merged and called back. @throws the failure on every rank alike
  void finish();
  /// Ends the exchange everywhere: every rank's submit, fetch and finish throw an Error of this status with
  /// this message, prefixed by rank and host; of several failures at once the lowest rank's. Returns when
  /// this rank's communication has ended: the communicator is free for other use then. From any thread of
  /// ours except the callbacks, which throw instead. No effect after a finish() that succeeds. An MPI call
  /// that fails ends only its own rank's exchange, with PeerError: no orderly end is possible then.
  void fail(const Error& error);

  [[nodiscard]] ExchangeStatistics statistics() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// The cost model behind `transport = "auto"`. Per unit of d weights with N clients, N' of them on L ranks
/// other than the root:
///
///   gather = max(N' (u / B + l / 3), N d a)
///
///   reduce = n d a + (t + (L - 1) c) max(1 / B, r) + (L + 1) l
///
/// u: bytes of an update (encoded_bytes: 9 to 17 bits a weight at 50 %); t: bytes of tiles and diagonal sums
/// (96 bits a weight); c: chunk bytes; n: clients of the rank that has most; B: bytes per second of a link;
/// l: seconds per message; a, r: seconds to add a weight of an update, a byte of tiles. So gather is limited
/// by the root's link (three updates are on their way at once) or by its one merging core, reduce by own
/// clients' merging and then by the chain. Units are summed up, for they follow each other.
struct TransportChoice {
  Transport transport = Transport::gather;
  std::int64_t gather_bytes = 0;  // over all ranks
  std::int64_t reduce_bytes = 0;
  double gather_seconds = 0;
  double reduce_seconds = 0;
  std::string reason;  // one line for the log
};
[[nodiscard]] TransportChoice choose_transport(const ExchangePlan& plan, int ranks);
/// Payload bytes that `rank` sends, from encoded_bytes (gather) or tile counts (reduce); announcements
/// included.
[[nodiscard]] std::int64_t forecast_bytes(const ExchangePlan& plan, Transport transport, int rank, int ranks);

}  // namespace fedspallm::comm
