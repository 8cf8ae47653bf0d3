// SPDX-License-Identifier: Apache-2.0
// Purpose: owners topology, the clients' side: cuts own clients' updates into slices, one for each owner, and
// sends each when its owner asks for it; or makes each slice then. cut_update() runs on the client's thread,
// making on a worker, the rest on the communication thread.
#pragma once

#include "../own_updates.hpp"
#include "../rank_context.hpp"
#include "slice_plan.hpp"
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <vector>

namespace fedspallm::comm {

/// One update cut up: the own slice as it is, the others' encoded one after the other.
struct CutUpdate {
  std::uint32_t client = 0;
  wire::PackedMatrix own;          // size x 1
  std::vector<float> diagonal;     // diag(H), whole
  std::vector<std::byte> encoded;  // slices of the other owners, in their order
  std::vector<std::size_t> begin;  // owners + 1 places in `encoded`; equal ones = nothing travels
  std::vector<std::int64_t> kept;  // by owner
};

/// @param owner  whose slice is not encoded: this rank
[[nodiscard]] CutUpdate cut_update(const PlannedUnit& unit, const ExchangeOptions& options,
                                   wire::MatrixUpdate&& update, int owner, int owners);

class SliceSender {
 public:
  /// @param maker  where later updates' slices are made @param on_through  of units of later updates
  SliceSender(const RankContext& context, Worker& maker, std::function<void(std::size_t index)> on_through)
      : context_(context), maker_(maker), on_through_(std::move(on_through)) {}

  /// The unit's merge begins: tells each owner what it can have. `updates`: of this rank's clients that take
  /// part, by client; may be empty.
  void offer(std::size_t index, std::vector<CutUpdate>&& updates);
  /// The same of updates that do not exist: each slice is made when its owner asks for it.
  void offer(std::size_t index, std::shared_ptr<const OwnUpdates> later);
  /// @throws PeerError when the owner asks for what was not offered
  void on(int owner, const AskMessage& message);
  /// The slices that this rank owns itself were added up.
  void own_added(std::size_t index);
  /// Own clients' updates of an offered unit, until own_added(): those that exist, or (else null) later ones.
  [[nodiscard]] std::vector<std::shared_ptr<const CutUpdate>> updates(std::size_t index) const;
  [[nodiscard]] std::shared_ptr<const OwnUpdates> later(std::size_t index) const;
  [[nodiscard]] bool empty() const { return units_.empty(); }
  /// After a stop, once every owner has stopped too: sends as many bytes as they wait for; what was not made
  /// is zeros. An owner that has not heard of the stop would refuse these and blame this rank.
  void release();
  /// Any thread: nothing more is made.
  void abort() { aborted_ = true; }
  /// Nothing is being made or owed.
  [[nodiscard]] bool idle() const { return making_ == 0 && owed_.empty(); }

 private:
  struct Unit {
    std::vector<std::shared_ptr<CutUpdate>> updates;
    std::shared_ptr<const OwnUpdates> later;
    std::vector<std::size_t> left;  // per update: owners that do not have it yet, this rank included
    std::size_t unfinished = 0;     // updates with some left
  };
  using Action = std::function<void()>;
  void offer_slices(std::size_t index, const std::function<std::int64_t(std::size_t, int)>& kept);
  void send_in_order(Action send);
  void send_or_owe(Action send);
  void after_making(Action work, Action done);
  void make_and_send(int owner, std::size_t index, std::size_t position,
                     const std::shared_ptr<const OwnUpdates>& later);
  void gone(std::size_t index, std::size_t position);

  const RankContext& context_;
  Worker& maker_;
  std::function<void(std::size_t)> on_through_;
  std::map<std::size_t, Unit> units_;
  int making_ = 0;           // slices on the maker, and what waits for them
  std::deque<Action> owed_;  // after a failure: owners' receives are posted
  bool released_ = false;
  std::atomic<bool> aborted_{false};
};

}  // namespace fedspallm::comm
