// SPDX-License-Identifier: Apache-2.0
#include "due_list.hpp"

#include <algorithm>

namespace fedspallm::comm {

DueList::DueList(const PlanIndex& plan, int rank) : plan_(plan) {
  const std::vector<int>& ranks = plan.plan().rank_of_client;
  for (std::uint32_t client = 0; client < ranks.size(); ++client) {
    if (ranks[client] == rank) due_[client].units = plan.units_of(client);
  }
}

bool DueList::deliver(std::size_t index, std::uint32_t client) {
  const std::lock_guard lock(mutex_);
  const auto found = due_.find(client);
  require(found != due_.end(), "submit: the client belongs to this rank");
  Due& due = found->second;
  if (due.dropped) return false;
  require(due.next < due.units.size() && due.units[due.next] == index,
          "submit: a client delivers its planned units, each once, in plan order");
  ++due.next;
  return true;
}

bool DueList::drop(std::uint32_t client, std::uint32_t block) {
  const std::lock_guard lock(mutex_);
  const auto found = due_.find(client);
  require(found != due_.end(), "drop: the client belongs to this rank");
  Due& due = found->second;
  if (due.dropped) return false;
  const std::size_t end = plan_.first_unit_of(block);
  const auto delivered = due.units.begin() + static_cast<std::ptrdiff_t>(due.next);
  require(std::lower_bound(due.units.begin(), due.units.end(), end) == delivered,
          "drop: the client has delivered all its planned units before that block, and none from it on");
  due.dropped = true;
  return true;
}

void DueList::drop_late(std::uint32_t client) {
  const std::lock_guard lock(mutex_);
  const auto found = due_.find(client);
  check<PeerError>(found != due_.end(), "the root dropped a client of another rank here");
  found->second.dropped = true;
}

bool DueList::is_dropped(std::uint32_t client) const {
  const std::lock_guard lock(mutex_);
  const auto found = due_.find(client);
  require(found != due_.end(), "is_dropped: the client belongs to this rank");
  return found->second.dropped;
}

bool DueList::anybody_left() const {
  const std::lock_guard lock(mutex_);
  return std::any_of(due_.begin(), due_.end(), [](const auto& one) { return !one.second.dropped; });
}

std::string DueList::first_missing(std::optional<std::uint32_t> end) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [client, due] : due_) {
    if (due.dropped || due.next == due.units.size()) continue;
    const PlannedUnit& unit = plan_.unit(due.units[due.next]);
    if (end && unit.id.block >= *end) continue;
    return fmt::format("finish() before client {} had delivered {}", client, describe(unit));
  }
  return "";
}

}  // namespace fedspallm::comm
