// SPDX-License-Identifier: Apache-2.0
// Purpose: owners topology, an owner's side: asks for the slices that it owns when it has room, adds them up
// (worker), and finishes its slice together with the other owners (another worker, so that additions of the
// next units go on while it waits for their sums). Merge states exist of as many units as weigh no more than
// three of the largest. Communication thread, except where said.
#pragma once

#include "../receive_ring.hpp"
#include "../tree_sum.hpp"
#include "slice_sender.hpp"
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace fedspallm::comm {

/// What finishing gave: the slice itself for this rank as its writer, else its bytes.
struct FinishedSlice {
  aggregate::MergedMatrix matrix;
  std::vector<std::byte> encoded;
};

class SliceMerger {
 public:
  using OnFinished = std::function<void(std::size_t index, const std::shared_ptr<FinishedSlice>& slice)>;

  SliceMerger(const RankContext& context, Worker& adder, Worker& finisher, SliceSender& sender,
              OnFinished on_finished);

  /// The unit's merge begins; own clients' updates were offered to the sender before.
  void begin(const SliceMessage& message);
  void on(int rank, OfferMessage&& message);
  void on(int rank, SumMessage&& message) { sums_.on(rank, std::move(message)); }
  /// Asks for what there is room for, finishes what is complete.
  void advance();
  /// Asks for and sums nothing more; what was asked for still arrives.
  void stop();
  /// Any thread: wakes the finisher and makes queued work do nothing.
  void abort();
  [[nodiscard]] bool empty() const { return units_.empty() && sums_.empty(); }

 private:
  /// Filled on the adder, read on the finisher after all was added.
  struct State {
    PlannedUnit shape;  // size x 1
    std::unique_ptr<CountedMerge> merge;
  };
  /// What workers need to know of a unit.
  struct Work {
    std::size_t index = 0;
    aggregate::FixedPoint scale;
    std::int64_t size = 0;     // of the own slice
    std::int64_t clients = 0;  // that take part
    std::shared_ptr<State> state;
  };
  struct Unit {
    Work work;
    std::map<int, std::vector<std::uint32_t>> remote;  // clients by rank; empty where the slice is
    std::map<int, std::size_t> asked;                  // of them
    std::size_t needed = 0, added = 0;                 // updates
    bool started = false, finishing = false;
  };
  [[nodiscard]] std::int64_t own_size(const PlannedUnit& unit) const;
  void add_own(const Work& work, const std::vector<std::shared_ptr<const CutUpdate>>& own);
  void add_own_later(const Work& work, const std::shared_ptr<const OwnUpdates>& later, std::size_t begin);
  void sum_diagonals(std::size_t index, aggregate::FixedPoint scale);
  [[nodiscard]] std::size_t units_with_room() const;
  void start(Unit& unit);
  void ask(Unit& unit);
  bool ask_rank(Unit& unit, int rank, const std::vector<std::int64_t>& kept);
  void added(std::size_t index, std::size_t updates);
  void add_batch(const Work& work, int rank, std::vector<std::uint32_t> clients,
                 std::vector<std::span<const std::byte>> parts, std::uint64_t piece);
  CountedMerge& merge_of(const Work& work) const;
  [[nodiscard]] std::vector<wire::PackedMatrix> decode_batch(
      const Work& work, int rank, const std::vector<std::uint32_t>& clients,
      const std::vector<std::span<const std::byte>>& parts) const;
  void finish(Unit& unit);
  [[nodiscard]] std::shared_ptr<FinishedSlice> finished(const Work& work,
                                                        std::span<const std::int64_t> diagonal);
  void sum_and_wait(std::size_t index, std::uint32_t step, std::span<std::int64_t> values);
  [[nodiscard]] bool diagonal_known(std::size_t index) const;

  const RankContext& context_;
  Worker& adder_;
  Worker& finisher_;
  SliceSender& sender_;
  OnFinished on_finished_;
  TreeSum sums_;
  ReceiveRing ring_;
  std::int64_t room_ = 0;   // weights of merge states, own slices only
  std::deque<Unit> units_;  // in plan order, begun and not finished
  std::map<std::size_t, std::map<int, std::vector<std::int64_t>>>
      offers_;  // unit, rank -> kept; not wholly asked for
  std::map<std::size_t, std::shared_ptr<const std::vector<std::int64_t>>> diagonals_;  // by diagonal unit
  bool stopped_ = false;

  std::atomic<bool> aborted_{false};
  std::mutex mutex_;  // of what the finisher waits for
  std::condition_variable summed_;
};

}  // namespace fedspallm::comm
