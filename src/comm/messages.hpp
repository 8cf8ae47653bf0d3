// SPDX-License-Identifier: Apache-2.0
// Purpose: the small control messages of an exchange and their bytes. One ordered channel carries them
// between the root and each rank, so that "before" and "after" mean the same on both sides. Non-goal: bulk
// data (link.hpp).
//
// Every bulk transfer is asked for by its receiver, who by then has room for it:
//
//   rank -> root  announce   this rank's clients have delivered a unit: what a merge needs to know beforehand
//   root -> rank  grant      (gather) send this client's update now; the root has posted its receive
//   root -> rank  scale      (reduce) all clients have delivered: the chain of this unit starts
//   leader -> rank  add      (nodes) add your clients' updates to the state that the node shares
//   rank -> leader  added
//   root -> rank  durable    how far the merge is
//   rank -> root  fetch      a merged block of the previous round is wanted
//   root -> rank  block      its bytes follow
//
//   rank -> root  wish;  root -> rank  hold;  rank -> root  begun;  root -> rank  decision     boundaries
//   rank -> root  drop;  root -> rank  late                                                    lost clients
//   rank -> root  finish;  root -> rank  done;  rank -> root  bye                              the good end
//   rank -> root  failed;  root -> rank  stop;  rank -> root  stopped;  root -> rank  verdict  the other end
//
//   root -> rank  slice;  rank -> owner  offer;  owner -> rank  ask;  rank <-> rank  sum       owners
//   owner -> writer  result;  writer -> owner  take;  root -> writer  reports;  writer -> root  written
//   rank -> rank  quiet                                                                        their other
//   end
//
// After done or verdict the root says nothing, after bye or stopped a rank says nothing.
#pragma once

#include "fedspallm/base/error.hpp"
#include "fedspallm/comm/exchange.hpp"
#include "fedspallm/wire/update.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace fedspallm::comm {

/// Why an exchange ends early; `text` already names rank and host.
struct Failure {
  ExitStatus status = ExitStatus::check_failed;
  std::string text;
};

/// What the root knows of one client's update before its payload.
using Announcement = UpdateSummary;

struct AnnounceMessage {
  std::uint64_t unit = 0;
  std::vector<Announcement> clients;
};
struct GrantMessage {
  std::uint64_t unit = 0;
  std::uint32_t client = 0;
};
struct ScaleMessage {
  std::uint64_t unit = 0;
  std::int32_t q = 0;
  std::int32_t diagonal_q = 0;
  std::int32_t upstream = -1;             // the neighbours in this unit's chain; -1 = none
  std::int32_t downstream = -1;           // nearer to the root
  std::vector<std::int32_t> adders = {};  // nodes: ranks of the node with clients that take part
};
/// All units before this one are merged and called back.
struct DurableMessage {
  std::uint64_t units = 0;
};
/// From this block on the client delivers nothing.
struct DropMessage {
  std::uint32_t client = 0;
  std::uint32_t block = 0;
  std::string reason;
};
/// The root does not wait for the client any more, from this unit on.
struct LateMessage {
  std::uint32_t client = 0;
  std::uint64_t unit = 0;
};
/// Agreed boundaries (boundaries.hpp): a rank wishes, the root asks all, all answer, the root decides.
struct WishMessage {
  Boundary what = Boundary::stop;
};
struct HoldMessage {};
struct BegunMessage {
  std::uint32_t next = 0;  // the first block not begun
};
struct DecisionMessage {
  Boundary what = Boundary::stop;
  std::uint32_t block = 0;
};
struct FetchMessage {
  std::uint32_t block = 0;
};
struct BlockMessage {
  std::uint32_t block = 0;
  std::int64_t bytes = 0;
};
struct FinishMessage {
  bool stopped = false;  // this rank's clients were told to stop
};
struct DoneMessage {
  bool stopped = false;
  std::uint32_t block = 0;  // at which all stopped
};
struct ByeMessage {};
struct FailedMessage {
  Failure failure;
};
struct StopMessage {};
struct StoppedMessage {
  std::optional<Failure> failure;
};
struct VerdictMessage {
  Failure failure;
};

// Of the topology `owners` (owners.hpp), between any two ranks.
/// The root: all clients but the absent ones have delivered, the unit is merged now.
struct SliceMessage {
  std::uint64_t unit = 0;
  std::int32_t q = 0;
  std::int32_t diagonal_q = 0;
  std::vector<std::uint32_t> absent;  // clients of the plan that do not take part
};
/// Kept weights of the owner's slice, for each of the sender's clients that take part.
struct OfferMessage {
  std::uint64_t unit = 0;
  std::vector<std::int64_t> kept;
};
/// The owner has room: the slices of `count` clients from position `first` of the offer on.
struct AskMessage {
  std::uint64_t unit = 0;
  std::uint32_t first = 0;
  std::uint32_t count = 0;
};
/// A part of a sum over all ranks, or (complete) the sum (tree_sum.hpp).
struct SumMessage {
  std::uint64_t unit = 0;
  std::uint32_t step = 0;
  bool complete = false;
  std::vector<std::int64_t> values;
};
/// The owner has finished its slice, which takes so many bytes.
struct ResultMessage {
  std::uint64_t unit = 0;
  std::int64_t bytes = 0;
};
/// The writer has room for it.
struct TakeMessage {
  std::uint64_t unit = 0;
};
/// The root to the writer: who was merged; nobody where all clients were dropped.
struct ReportsMessage {
  std::uint64_t unit = 0;
  std::vector<Announcement> clients;
};
/// The writer's callback has returned.
struct WrittenMessage {
  std::uint64_t unit = 0;
  std::string note;
};
/// After a stop: the sender asks for nothing any more.
struct QuietMessage {};

// Of the topology `nodes` (node_merge.hpp), between a leader and the ranks of its node.
struct AddMessage {
  std::uint64_t unit = 0;
  std::int32_t q = 0;
  std::int32_t diagonal_q = 0;
  std::uint32_t state = 0;  // of the shared memory
  std::uint32_t adder = 0;  // this rank among those that add
  std::uint32_t adders = 1;
};
struct AddedMessage {
  std::uint64_t unit = 0;
  bool failed = false;  // then the exchange fails, too
};

/// The alternative's index is the first byte on the wire.
using Message =
    std::variant<AnnounceMessage, GrantMessage, ScaleMessage, FetchMessage, BlockMessage, FinishMessage,
                 DoneMessage, ByeMessage, FailedMessage, StopMessage, StoppedMessage, VerdictMessage,
                 DurableMessage, DropMessage, LateMessage, WishMessage, HoldMessage, BegunMessage,
                 DecisionMessage, SliceMessage, OfferMessage, AskMessage, SumMessage, ResultMessage,
                 TakeMessage, ReportsMessage, WrittenMessage, QuietMessage, AddMessage, AddedMessage>;

[[nodiscard]] std::vector<std::byte> to_bytes(const Message& message);
/// @throws PeerError when the bytes are no message
[[nodiscard]] Message from_bytes(std::span<const std::byte> bytes);

/// Bytes of one message; for forecasts.
[[nodiscard]] std::int64_t message_bytes(const Message& message);
/// Bytes of an announcement of `clients` clients; for forecasts.
[[nodiscard]] std::int64_t announce_bytes(std::int64_t clients);

/// The exception in flight as a failure of this rank.
[[nodiscard]] Failure current_failure(const std::string& rank_name);
[[nodiscard]] Failure failure_of(const Error& error, const std::string& rank_name);

}  // namespace fedspallm::comm
