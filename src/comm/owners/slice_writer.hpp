// SPDX-License-Identifier: Apache-2.0
// Purpose: owners topology, the last step: finished slices come together at the unit's writer, whose callback
// gets the whole matrix, unit after unit in plan order, on a worker of its own. A writer takes slices of two
// units at most before their callbacks; owners hold theirs until then. Communication thread.
#pragma once

#include "slice_merger.hpp"
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <vector>

namespace fedspallm::comm {

class SliceWriter {
 public:
  SliceWriter(const RankContext& context, Worker& worker, Exchange::OnCompleted on_completed);

  /// This rank's slice of a unit.
  void finished(std::size_t index, const std::shared_ptr<FinishedSlice>& slice);
  void on(int owner, const ResultMessage& message);
  void on(int writer, const TakeMessage& message);
  void on(int root, ReportsMessage&& message);
  /// Takes and writes what there is room for.
  void advance();
  void stop() { stopped_ = true; }
  /// Any thread: queued callbacks do nothing.
  void abort() { aborted_ = true; }
  /// Nothing is held for or by others.
  [[nodiscard]] bool empty() const { return results_.empty() && units_.empty(); }

 private:
  struct Unit {
    std::optional<std::vector<Announcement>> said;  // who was merged, once known
    std::map<int, std::int64_t> offered;            // by owner: bytes, not taken yet
    std::map<int, std::vector<std::byte>> arriving;
    std::map<int, std::vector<std::byte>> arrived;
    std::shared_ptr<FinishedSlice> own;
  };
  void take(std::size_t index, Unit& unit);
  [[nodiscard]] bool complete(std::size_t index, const Unit& unit) const;
  void write(std::size_t index, Unit&& unit);
  void call_back(std::size_t index, Unit& unit);
  [[nodiscard]] aggregate::MergedMatrix joined(std::size_t index, Unit& unit) const;

  const RankContext& context_;
  Worker& worker_;
  Exchange::OnCompleted on_completed_;
  std::map<std::size_t, std::shared_ptr<FinishedSlice>> results_;  // held for their writers
  std::map<std::size_t, Unit> units_;                              // that this rank writes
  std::vector<std::size_t> mine_;                                  // all of them, in plan order
  std::size_t posted_ = 0, written_ = 0;                           // of mine_
  bool stopped_ = false;
  std::atomic<bool> aborted_{false};
};

}  // namespace fedspallm::comm
