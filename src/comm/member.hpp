// SPDX-License-Identifier: Apache-2.0
// Purpose: the part of the protocol that every rank plays, the root too: it keeps its clients' updates until
// the root asks for them, and asks for blocks. Communication thread only.
#pragma once

#include "chain.hpp"
#include "node_merge.hpp"
#include "owners/owners.hpp"
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

namespace fedspallm::comm {

/// One client's update as submit() hands it over.
struct Delivery {
  Announcement said;
  wire::MatrixUpdate update;                           // of the root's own clients, and for reduce
  std::vector<std::byte> encoded;                      // what will travel (gather)
  std::shared_ptr<std::byte> device_memory = nullptr;  // holds what will travel (nccl):
  std::span<const std::byte> on_device = {};
  CutUpdate cut;  // topology owners
};

/// A client thread's wish for a block; `ready` and `bytes` are guarded by the gate.
struct FetchTicket {
  std::uint32_t block = 0;
  bool ready = false;
  std::vector<std::byte> bytes;
};

class Member {
 public:
  /// @param owners  null in other topologies
  Member(const RankContext& context, Worker& merge_worker, Chain::OnReduced on_reduced, Owners* owners);

  // From this rank's other threads, through the desk.
  void deliver(std::size_t index, Delivery&& delivery);
  void deliver_later(std::size_t index, OwnUpdates&& later);
  void fetch(const std::shared_ptr<FetchTicket>& ticket);
  void drop(DropMessage&& message);
  void wish(Boundary what);
  void finish();
  void fail(Failure failure);

  // From the root.
  void on(const GrantMessage& message);
  void on(const ScaleMessage& message);
  void on(const AddMessage& message);    // from the node's leader
  void on(const AddedMessage& message);  // at the leader
  void on(const BlockMessage& message);
  void on(const DurableMessage& message);
  void on(const LateMessage& message);
  void on(const HoldMessage& message);
  void on(const DecisionMessage& message);
  void on(const DoneMessage& message);
  void on(const StopMessage& message);
  void on(VerdictMessage&& message);

  /// The updates of own clients among `said`; once. @throws PeerError when one is not here
  [[nodiscard]] OwnUpdates take_own(std::size_t index, std::span<const Announcement> said);
  /// One of them as it was handed over by submit(); likewise once.
  [[nodiscard]] Delivery take(std::size_t index, std::uint32_t client);
  /// Owners: what submit_later() was given of the unit (else null), and that all of it has left.
  [[nodiscard]] std::shared_ptr<const OwnUpdates> later(std::size_t index) const;
  void later_through(std::size_t index);
  /// Moves the chain on; after a stop, tells the root once nothing is on its way any more. False when nothing
  /// was done.
  bool advance();
  [[nodiscard]] bool over() const { return over_; }
  /// Any thread: what is merged here has no use any more.
  void abort();
  [[nodiscard]] const std::optional<Failure>& verdict() const { return verdict_; }

 private:
  /// Updates of own clients that the root has not asked for.
  struct Held {
    std::map<std::uint32_t, Delivery> deliveries;  // by client
    std::size_t expected = 0;                      // own clients that take part (without a deadline)
  };
  /// What submit_later() was given, until all of it was asked for.
  struct Later {
    std::shared_ptr<const OwnUpdates> updates;
    std::size_t left = 0;
  };
  [[nodiscard]] OwnUpdates take_all(std::size_t index);
  [[nodiscard]] bool is_dropped(std::uint32_t client, std::size_t index) const;
  Held& held(std::size_t index);
  void send_from_device(std::size_t index, std::uint32_t client);
  void announce_if_complete(std::size_t index);
  void announce_later();
  using Encoded = std::shared_ptr<const std::vector<std::byte>>;
  void send_update(std::size_t index, const Encoded& encoded);
  void after_making(std::function<void()> work, std::function<void()> done);
  void make_and_send(std::size_t index, std::uint32_t client);
  /// @param encoded  empty when it could not be made
  void made(std::size_t index, const UpdateSummary& said, const Encoded& encoded);
  /// Whether anything may still be said to the root but the last word.
  [[nodiscard]] bool speaks() const { return !stopping_ && !last_word_said_; }

  const RankContext& context_;
  Worker& merge_worker_;
  Owners* owners_;
  std::unique_ptr<Chain> chain_;                  // reduce
  std::unique_ptr<NodeMerge> nodes_;              // of that topology
  std::map<std::size_t, Held> held_;              // by unit
  std::map<std::size_t, Later> later_;            // by unit
  std::deque<std::size_t> unannounced_;           // of later_, in plan order
  int making_ = 0;                                // updates that were asked for and are being made
  std::vector<std::function<void()>> owed_;       // sent after a failure: the root's receives are posted
  std::map<std::uint32_t, std::size_t> dropped_;  // own client -> first unit without it
  std::deque<std::shared_ptr<FetchTicket>> asked_;
  std::optional<Failure> own_failure_;
  bool stopping_ = false;
  bool done_ = false;  // the root has said so
  bool last_word_said_ = false;
  bool over_ = false;
  std::optional<Failure> verdict_;
};

}  // namespace fedspallm::comm
