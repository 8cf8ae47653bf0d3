// SPDX-License-Identifier: Apache-2.0
// Purpose: what the root knows of who delivers what: announcements as they come in, clients dropped, and
// which units everybody who takes part has announced. Communication thread only. Non-goal: messages.
#pragma once

#include "fedspallm/aggregate/merge.hpp"

#include "messages.hpp"
#include "plan_index.hpp"
#include <map>
#include <memory>
#include <vector>

namespace fedspallm::comm {

/// A unit whose remaining clients have all announced it, so that its scale is known.
struct ReadyUnit {
  std::size_t index = 0;
  std::vector<Announcement> said;  // by client; empty when all its clients were dropped
  aggregate::FixedPoint scale;
  aggregate::FixedPoint diagonal_scale;
};

/// The scale follows from what all clients said, so it is the same whichever way they deliver (rulings.md 6).
/// @pre `said` is in the order of clients
[[nodiscard]] ReadyUnit make_ready(std::size_t index, std::vector<Announcement> said);

class Roster {
 public:
  explicit Roster(const PlanIndex& plan);

  /// What `rank` says of its clients' updates; of a dropped client it is ignored. @throws PeerError naming
  /// rank, client and matrix when it cannot be true or is said twice
  void announce(int rank, std::size_t index, std::vector<Announcement> clients);
  /// From unit `first` on nothing is expected of the client. False when it was dropped before. @pre it has
  /// announced nothing of `first` or later
  bool drop(std::uint32_t client, std::size_t first);

  /// Nothing while announcements are missing. The same object until completed(). @pre not completed
  [[nodiscard]] std::shared_ptr<const ReadyUnit> ready(std::size_t index);
  /// The unit is called back: nobody asks for it any more. In plan order.
  void completed(std::size_t index);
  /// Somebody has announced the unit, others have not.
  [[nodiscard]] bool waits_for_some(std::size_t index) const;
  /// The clients that have not.
  [[nodiscard]] std::vector<std::uint32_t> missing(std::size_t index) const;

 private:
  /// Place of the client in the unit's list. @pre it is in it
  [[nodiscard]] std::size_t place_of(std::uint32_t client, std::size_t index) const;
  [[nodiscard]] bool takes_part(std::uint32_t client, std::size_t index) const;
  /// @pre it takes part
  [[nodiscard]] bool has_announced(std::uint32_t client, std::size_t index) const;
  void check_announcement(int rank, const PlannedUnit& unit, const Announcement& said) const;

  const PlanIndex& plan_;
  std::size_t completed_ = 0;         // units
  std::vector<std::size_t> missing_;  // announcements, per unit
  /// Of a unit that is not ready: compact, for there may be very many clients.
  struct Announced {
    std::vector<Announcement> said;  // as it came
    std::vector<bool> by_place;      // whether the client at this place of the unit's list has announced
  };
  std::map<std::size_t, Announced> announced_;
  std::map<std::size_t, std::shared_ptr<const ReadyUnit>> ready_;
  std::map<std::uint32_t, std::size_t> dropped_;  // client -> first unit without it
};

}  // namespace fedspallm::comm
