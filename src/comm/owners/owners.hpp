// SPDX-License-Identifier: Apache-2.0
// Purpose: one rank's part in the topology `owners`: each rank owns a share of every matrix, is sent all
// clients' slices of it, merges and finishes them, and passes the result to the unit's writer. Every bulk
// transfer is asked for by its receiver. Communication thread, except where said.
//
// Ends: after the root's done a rank is through once nothing is under way here. After a stop each rank tells
// every other one that it asks for nothing more, and answers what it was asked for until all have told it:
// then no message is left over. Non-goals: who takes part and when a unit's merge begins (coordinator.hpp).
#pragma once

#include "slice_merger.hpp"
#include "slice_sender.hpp"
#include "slice_writer.hpp"
#include <memory>

namespace fedspallm::comm {

class Owners {
 public:
  /// This rank's clients (member.hpp).
  struct OwnClients {
    std::function<CutUpdate(std::size_t index, std::uint32_t client)> take;  // an update of a unit, once
    /// All of a unit's updates, to be made when they are due; null where they were taken.
    std::function<std::shared_ptr<const OwnUpdates>(std::size_t index)> later;
    std::function<void(std::size_t index)> through;  // all of those were made
  };

  Owners(const RankContext& context, Worker& adder, const std::function<void()>& on_error,
         Exchange::OnCompleted on_completed, OwnClients own);
  ~Owners();
  Owners(const Owners&) = delete;
  Owners& operator=(const Owners&) = delete;

  void on(int root, const SliceMessage& message);
  void on(int rank, OfferMessage&& message) { merger_.on(rank, std::move(message)); }
  void on(int rank, const AskMessage& message) { sender_.on(rank, message); }
  void on(int rank, SumMessage&& message) { merger_.on(rank, std::move(message)); }
  void on(int rank, const ResultMessage& message) { writer_.on(rank, message); }
  void on(int rank, const TakeMessage& message) { writer_.on(rank, message); }
  void on(int rank, ReportsMessage&& message) { writer_.on(rank, std::move(message)); }
  void on(int rank, const QuietMessage& message);

  void advance();
  /// The exchange ends before its time.
  void stop();
  /// After stop(): no other rank will ask for anything, and all that they asked for was sent.
  [[nodiscard]] bool quiet() const { return all_stopped() && sender_.idle(); }
  /// Nothing is under way here.
  [[nodiscard]] bool empty() const { return sender_.empty() && merger_.empty() && writer_.empty(); }
  /// Any thread: nothing waits any more, queued work does nothing.
  void abort();

 private:
  [[nodiscard]] bool all_stopped() const { return stopped_ && quiet_ranks_ == context_.link.size() - 1; }
  void release_if_all_stopped();

  const RankContext& context_;
  OwnClients own_;
  bool stopped_ = false;
  int quiet_ranks_ = 0;
  std::unique_ptr<Worker> finisher_, writing_;  // ended by the destructor, before what they use
  SliceSender sender_;
  SliceMerger merger_;
  SliceWriter writer_;
};

}  // namespace fedspallm::comm
