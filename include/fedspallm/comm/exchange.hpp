// SPDX-License-Identifier: Apache-2.0
// Purpose: what is said about matrices during one round: clients' updates travel to the root, which hands
// each complete merge to a callback; in later rounds merged blocks travel back down. One communication thread
// per rank makes all MPI calls while an exchange lives (rulings.md 21), sleeping when idle, so a client's
// thread never waits for the network except when its window (bounded) is full. All transports give the same
// bits. All ranks can be stopped, or made to save, between the same two blocks; a client that fails or is
// late can be left out. Non-goals: finishing a merge, files, noticing dead ranks (watchdog).
#pragma once

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/aggregate/slices.hpp"
#include "fedspallm/comm/communicator.hpp"
#include "fedspallm/comm/device.hpp"
#include "fedspallm/comm/node_memory.hpp"
#include "fedspallm/wire/update.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fedspallm::comm {

/// nccl: as gather, but updates go from GPU to GPU and are added and finished on the root's; the root's own
/// take the same way.
enum class Transport { reduce, gather, nccl };
/// "reduce", "gather", "nccl".
[[nodiscard]] std::string name_of(Transport transport);

/// Who merges; all give the same bits.
///   root    rank 0, by any transport
///   nodes   the ranks of a node in memory that they share; sums of nodes then go as by reduce along the
///           nodes' leaders to rank 0
///   owners  each of R ranks owns 1/R of every matrix: packed slices go to their owners, who merge and finish
///           them; so no rank's memory or traffic for merging grows with the number of ranks
enum class Topology { root, owners, nodes };

/// Clients by number, ascending. Copies share one list: a plan of many matrices with the same clients holds
/// it once.
class ClientList {
 public:
  ClientList() = default;
  ClientList(std::vector<std::uint32_t> clients)  // NOLINT: plans are made from vectors
      : list_(std::make_shared<const std::vector<std::uint32_t>>(std::move(clients))) {}
  ClientList(std::initializer_list<std::uint32_t> clients)
      : ClientList(std::vector<std::uint32_t>(clients)) {}

  [[nodiscard]] std::span<const std::uint32_t> all() const {
    return list_ == nullptr ? std::span<const std::uint32_t>() : std::span(*list_);
  }
  [[nodiscard]] auto begin() const { return all().begin(); }
  [[nodiscard]] auto end() const { return all().end(); }
  [[nodiscard]] std::size_t size() const { return all().size(); }
  [[nodiscard]] bool empty() const { return all().empty(); }
  [[nodiscard]] std::uint32_t back() const { return all().back(); }
  [[nodiscard]] bool contains(std::uint32_t client) const {
    return std::binary_search(begin(), end(), client);
  }
  friend bool operator==(const ClientList& a, const ClientList& b) { return std::ranges::equal(a, b); }
  /// Whether both are one list in memory (equal ones need not be).
  [[nodiscard]] bool shares(const ClientList& other) const { return list_ == other.list_; }

 private:
  std::shared_ptr<const std::vector<std::uint32_t>> list_;
};

/// One matrix that will be merged: known to all ranks beforehand, in the order in which clients deliver.
struct PlannedUnit {
  wire::UnitId id;
  std::string name;  // tensor name, for messages
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  DType dtype = DType::f32;
  bool with_diagonal = false;  // its updates carry diag(H)
  std::size_t diagonal_unit =
      0;               // index in the plan of the unit whose updates carry diag(H) for this one's input group
  ClientList clients;  // that deliver it; not empty
  std::int64_t expected_kept = -1;  // per client, when the count is exact; -1 = unknown. For forecasts
};

struct ExchangePlan {
  std::vector<PlannedUnit> units;              // by (block, matrix)
  std::vector<int> rank_of_client;             // for every client of the config
  std::vector<std::string> client_names = {};  // likewise, for messages; may be left empty
  /// The first block that clients begin, whether or not they prune it: 0, or where a resumed round goes on.
  std::uint32_t first_block = 0;
};

/// What a merge must know of one client's update beforehand.
struct UpdateSummary {
  std::uint32_t client = 0;
  std::int64_t kept = 0;
  float largest = 0;           // no |value| is above it: it decides the fixed-point scale
  float largest_diagonal = 0;  // likewise for diag(H), 0 without one
  wire::MatrixReport report;
};
/// Makes the update of one client that was summarized. One at a time, on a thread of the exchange.
using MakeUpdate = std::function<wire::MatrixUpdate(std::uint32_t client)>;

/// Topology owners: makes slices of updates that were summarized, so that no update need exist as a whole.
struct MakeSlices {
  /// How many weights the client keeps in each slice. On the thread that submits.
  std::function<std::vector<std::int64_t>(std::uint32_t client, std::span<const aggregate::Slice> slices)>
      kept;
  /// As wire::slice() gives it, size x 1. One at a time, on a thread of the exchange.
  std::function<wire::PackedMatrix(std::uint32_t client, const aggregate::Slice& slice)> make;
  /// The whole diag(H), where the plan says that it comes with the unit. Likewise.
  std::function<std::vector<float>(std::uint32_t client)> diagonal;
};

/// A complete merge, at the root (topology owners: at the unit's writer). Valid during the callback only.
struct CompletedUnit {
  std::size_t index = 0;  // in the plan
  /// Null where every client of the unit was dropped: nothing was merged, and `reports` is empty. The
  /// callback decides what that means (it may throw). Null too where `finished` is there.
  const aggregate::PartialMerge* merge = nullptr;
  /// Topology owners, transport nccl: the result, by ExchangeOptions::rules. The callback may move it away.
  aggregate::MergedMatrix* finished = nullptr;
  std::span<const std::int64_t> diagonal_sums;  // of its input group; empty when no diagonal travels
  aggregate::FixedPoint diagonal_scale;
  std::span<const UpdateSummary> reports;  // of the clients that were merged, by client: their number is N
};

/// What a rank does before it begins a block. In order of precedence.
enum class Boundary { go_on, save, stop };

/// A client that delivers nothing from this block on (`late`: from the middle of this block on).
struct Dropped {
  std::uint32_t client = 0;
  std::uint32_t block = 0;
  std::string reason;
  bool late = false;  // the root dropped it, for its deadline
};

struct ExchangeOptions {
  Transport transport = Transport::gather;
  Topology topology = Topology::root;
  std::int64_t chunk_bytes = 1 << 20;  // of the reduce pipeline; rounded down to whole tiles, at least one
  int window_blocks = 2;               // blocks of a rank's clients in flight before submit() waits
  /// Topology nodes: by rank, the rank that leads its node (node_leaders()), and what the node shares, with
  /// room for SharedMerge::bytes() of every unit. The same leaders on all ranks.
  std::vector<int> leaders = {};
  std::shared_ptr<NodeMemory> node_memory = nullptr;
  std::int64_t message_limit = std::int64_t{1}
                               << 30;  // longer transfers become several messages (tests set it small)
  /// nccl: this rank's port and (where it takes part) link; they are not used outside of exchanges.
  std::shared_ptr<DeviceTransport> device = nullptr;
  /// Not with reduce; 0 = none. A client is late when it has not announced the oldest unmerged unit this long
  /// after another client had and everything before was merged. As a rank runs its clients one after the
  /// other, all of them count as late that have not delivered the unit.
  double deadline_seconds = 0;
  /// What becomes of late clients: dropped, or (false) the exchange fails with PeerError naming them.
  bool drop_late = false;
  /// Topology owners, transport nccl: how merges are finished, for that happens where the sums are.
  aggregate::MergeRules rules = {};
  /// Topology owners: the callback for block b is called on rank b mod ranks (its writer), not at the root.
  /// It then returns when what it wrote is durable; `note` is asked at once, and `on_note` gets what it said,
  /// at the root, on the provider's thread, before the unit counts as through.
  bool spread_writing = false;
  std::function<std::string(std::size_t unit)> note = {};
  std::function<void(std::size_t unit, const std::string& note)> on_note = {};
  /// Called once, on the communication thread, when this rank hears how the exchange failed: every rank hears
  /// the same, but a client thread that is at work only with its next call. Quick; must not throw. (Not for
  /// an MPI call that failed here, of which others know nothing.)
  std::function<void()> on_failure = {};
  /// Tests: sees each encoded update before it travels (gather; nccl: its image, when it comes from host
  /// memory), on the client's thread.
  std::function<void(std::span<std::byte>)> before_send = {};
};

struct ExchangeStatistics {
  std::int64_t bytes_sent = 0;  // by this rank over MPI and between devices, everything counted
  std::int64_t bytes_received = 0;
  std::int64_t messages_sent = 0;
  double seconds_waited = 0;   // submit(), at_boundary() and fetch() blocked
  double seconds_merging = 0;  // root: PartialMerge::add and callbacks
  double seconds_making = 0;   // inside of what submit_later() was given; not part of the above
  std::int64_t peak_merge_bytes =
      0;  // root, owners, leaders: merge states + receive buffers (nccl: also the device's)
};

class Exchange {
 public:
  /// Called at the root, on the merge thread, in the order of the plan, one at a time. An exception ends the
  /// run on all ranks. (With spread_writing: at each rank, for its blocks.)
  using OnCompleted = std::function<void(const CompletedUnit&)>;
  /// Called at the root, on a thread of its own or the client's, one at a time: the bytes of a merged block
  /// for clients of the next round. Asked once where several ranks want the same block.
  using Provider = std::function<std::vector<std::byte>(std::uint32_t block)>;

  /// Collective. `on_completed` and `provider` are used at the root only. The plan may begin at any block (a
  /// resumed round) and may be empty.
  /// @pre the same plan, transport, chunk_bytes, message_limit and deadline on all ranks; a deadline is
  /// finite,
  /// >= 0, and 0 with reduce
  Exchange(Communicator& communicator, ExchangePlan plan, ExchangeOptions options, OnCompleted on_completed,
           Provider provider = {});
  /// Not collective: after finish() or a failure it returns at once; otherwise it fails the exchange first.
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  /// Asked by each rank's client loop before it begins a block: each block from the plan's first_block to the
  /// last of the model, whether or not its clients prune it, one after the other, each once. The loop over
  /// blocks is the outer one and asks once for all clients of the rank. (A rank without clients, or whose
  /// clients are all dropped, need not ask; it never holds others up.)
  ///   go_on  begin the block
  ///   save   make durable what the clients need to begin this block; then begin it, without asking again
  ///   stop   make the same durable, leave the loop without beginning the block, and finish()
  /// Every rank is told the same at the same block: one above the highest that any rank had begun when all
  /// were asked, or first_block. So a request takes effect as early as it can, and a request that comes when
  /// some rank is in the last block has none; then the caller's own flag must tell after finish(). A stop
  /// takes the place of a save at the same block. Waits while ranks are being asked, and as submit() does for
  /// durability. @throws the exchange's failure, if there is one; LogicError for another block than the next
  [[nodiscard]] Boundary at_boundary(std::uint32_t block);
  /// Asks for a stop, or a save, of all ranks. On any rank, from any thread (not from a signal handler), any
  /// number of times; returns at once. No effect when the exchange is over or a stop was agreed.
  void request_stop();
  void request_save();
  /// After finish(): the block at which all ranks were told to stop: everything planned before it is merged
  /// and called back, nothing from it on. Nothing when the round went to its end. The same on every rank.
  [[nodiscard]] std::optional<std::uint32_t> stopped_at() const;

  /// Hands over one client's update of the unit `index` of the plan. Every client delivers its units in plan
  /// order; within a block the clients of a rank may come in any order, but no client may be `window_blocks`
  /// blocks ahead of another one of its rank, for submit() waits while so many blocks are in flight. It also
  /// waits while its block is more than `window_blocks` + 2 planned blocks ahead of durable_block(). A block
  /// that was not asked for counts as begun by its first submit(). Discards the updates of a dropped client.
  /// @throws the exchange's failure, if there is one; LogicError for a block at or after an agreed stop
  void submit(std::size_t index, wire::MatrixUpdate update);
  /// The same for all clients of this rank at once (dropped ones left out) whose updates are made only when
  /// they are merged or sent: however many clients there are, a few of their updates exist at a time.
  /// @param summaries  one of each, ascending by client
  /// @param make  must give what was summarized; lives until the exchange is over. What it throws ends the
  /// exchange.
  /// @param slices  with owners, likewise; without them each owner's slice is cut out of an update made whole
  /// for it
  /// @pre no deadline, not nccl; within a unit a rank uses this or submit()
  void submit_later(std::size_t index, std::vector<UpdateSummary> summaries, MakeUpdate make,
                    MakeSlices slices = {});
  /// All planned units of blocks below this one are merged, and the root's callback has returned for each, as
  /// far as this rank has heard. Grows. Once everything planned is through: the largest uint32.
  [[nodiscard]] std::uint32_t durable_block() const;

  /// A client of this rank delivers nothing from `block` on; merges from there on run over the others. Not
  /// for late clients, which the root drops.
  /// @pre it has delivered every planned unit before `block` and none of `block` or later
  void drop(std::uint32_t client, std::uint32_t block, std::string reason);
  /// Whether this client of this rank was dropped, here or (late) by the root. A late client's updates that
  /// were merged before that count, also those of the same block: the block's later matrices then have fewer
  /// clients than its first ones and their diagonal sums.
  [[nodiscard]] bool is_dropped(std::uint32_t client) const;
  /// At the root: who was dropped so far, by client. Empty elsewhere.
  [[nodiscard]] std::vector<Dropped> dropped() const;

  /// A merged block of the previous round, from the root. Waits.
  [[nodiscard]] std::vector<std::byte> fetch(std::uint32_t block);
  /// Collective: all delivered (before the agreed stop), merged and called back. @throws the failure on every
  /// rank alike
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
/// included (with a deadline clients announce one by one, which takes a few bytes more).
[[nodiscard]] std::int64_t forecast_bytes(const ExchangePlan& plan, Transport transport, int rank, int ranks);
/// The same for any topology. Owners: exact where clients' kept weights are spread evenly over a matrix (N:M
/// patterns, or all kept), else off by what slices differ; notes of writers apart.
[[nodiscard]] std::int64_t forecast_bytes(const ExchangePlan& plan, const ExchangeOptions& options, int rank,
                                          int ranks);

/// The cost model behind `topology = "auto"`. Per unit on R ranks, with the symbols above:
///
///   root   = gather or reduce, whichever may be used and is cheaper
///   owners = max(n u (1 - 1/R) / B, N d a / R) + w (1 - 1/R) / B + (3 + 2 h s) l
///   nodes  = n d a + l, and where clients are on L' nodes other than the root's besides
///            (t + (L' - 1) c) max(1 / B, r) + (L' + 1) l
///
/// w: bytes of a finished matrix on its way to the writer; s: sums of finishing (sums_of_finishing) and of
/// diag(H) over a tree of h = ceil(log2(R)) levels. (No rank receives more slices than the rank with n
/// clients sends. Ranks of a node add at once, each its own.) The choice adds what finishing takes: d f at
/// the root, d f / R with owners. Writing is left out.
struct TopologyChoice {
  Topology topology = Topology::root;
  double root_seconds = 0, owners_seconds = 0;
  double nodes_seconds = 0;  // 0 where no node has two ranks, or they may not be used
  std::string reason;        // for the log
};
/// @param options  rules, chunk_bytes, deadline and leaders count: without leaders there are no nodes
/// @param transport  where it is fixed: reduce leaves out owners and nodes, gather nodes
[[nodiscard]] TopologyChoice choose_topology(const ExchangePlan& plan, const ExchangeOptions& options,
                                             std::optional<Transport> transport, int ranks);

}  // namespace fedspallm::comm
