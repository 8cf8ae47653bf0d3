// SPDX-License-Identifier: Apache-2.0
#include "due_list.hpp"

#include <algorithm>

namespace fedspallm::comm {

DueList::DueList(const PlanIndex& plan, int rank) : plan_(plan) {
  const std::vector<int>& ranks = plan.plan().rank_of_client;
  for (std::uint32_t client = 0; client < ranks.size(); ++client) {
    if (ranks[client] == rank) due_.emplace_hint(due_.end(), client, Due());
  }
}

bool DueList::deliver_locked(std::size_t index, std::uint32_t client) {
  const auto found = due_.find(client);
  require(found != due_.end(), "submit: the client belongs to this rank");
  Due& due = found->second;
  if (due.dropped) return false;
  require(index < plan_.size() && plan_.next_of(client, due.delivered) == index,
          "submit: a client delivers its planned units, each once, in plan order");
  due.delivered = index + 1;
  return true;
}

bool DueList::deliver(std::size_t index, std::uint32_t client) {
  const std::lock_guard lock(mutex_);
  return deliver_locked(index, client);
}

void DueList::deliver_all(std::size_t index, std::span<const UpdateSummary> summaries) {
  const std::lock_guard lock(mutex_);
  std::size_t expected = 0;
  for (const auto& [client, due] : due_)
    expected += !due.dropped && plan_.unit(index).clients.contains(client) ? 1U : 0U;
  require(summaries.size() == expected, "submit_later: one summary of each client of this rank that is left");
  const auto descends = [](const UpdateSummary& a, const UpdateSummary& b) { return a.client >= b.client; };
  require(std::adjacent_find(summaries.begin(), summaries.end(), descends) == summaries.end(),
          "submit_later: summaries ascend by client");
  for (const UpdateSummary& one : summaries)
    require(deliver_locked(index, one.client), "submit_later: no client that was dropped");
}

bool DueList::drop(std::uint32_t client, std::uint32_t block) {
  const std::lock_guard lock(mutex_);
  const auto found = due_.find(client);
  require(found != due_.end(), "drop: the client belongs to this rank");
  Due& due = found->second;
  if (due.dropped) return false;
  const std::size_t end = plan_.first_unit_of(block);
  require(due.delivered <= end && plan_.next_of(client, due.delivered) >= end,
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
    const std::size_t next = due.dropped ? plan_.size() : plan_.next_of(client, due.delivered);
    if (next == plan_.size()) continue;
    const PlannedUnit& unit = plan_.unit(next);
    if (end && unit.id.block >= *end) continue;
    return fmt::format("finish() before client {} had delivered {}", client, describe(unit));
  }
  return "";
}

}  // namespace fedspallm::comm
