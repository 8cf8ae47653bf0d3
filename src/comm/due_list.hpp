// SPDX-License-Identifier: Apache-2.0
// Purpose: what this rank's clients have yet to deliver: the order in which they must, and who was dropped.
// Thread-safe. Non-goal: contents of updates.
#pragma once

#include "plan_index.hpp"
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::comm {

class DueList {
 public:
  DueList(const PlanIndex& plan, int rank);

  /// The client hands over the unit. False when it was dropped: its update is to be discarded. @throws
  /// LogicError when it is not the client's turn, or not a client of this rank
  [[nodiscard]] bool deliver(std::size_t index, std::uint32_t client);
  /// The same for all clients of this rank that take part. @throws LogicError when one of them is missing
  void deliver_all(std::size_t index, std::span<const UpdateSummary> summaries);
  /// Nothing more is due of the client from `block` on. False when it was dropped before. @throws LogicError
  /// unless it has delivered all before that and none of it
  [[nodiscard]] bool drop(std::uint32_t client, std::uint32_t block);
  /// The root does not wait for it any more, whatever it has delivered.
  void drop_late(std::uint32_t client);

  [[nodiscard]] bool is_dropped(std::uint32_t client) const;
  /// Whether some client of this rank is not dropped.
  [[nodiscard]] bool anybody_left() const;
  /// The first thing that is due of blocks before `end` and was not delivered, as a sentence; else "".
  [[nodiscard]] std::string first_missing(std::optional<std::uint32_t> end) const;

 private:
  struct Due {
    std::size_t delivered = 0;  // all of the client's units before this one, and none from it on
    bool dropped = false;
  };
  bool deliver_locked(std::size_t index, std::uint32_t client);
  const PlanIndex& plan_;
  mutable std::mutex mutex_;
  std::map<std::uint32_t, Due> due_;  // by client
};

}  // namespace fedspallm::comm
