// SPDX-License-Identifier: Apache-2.0
#include "roster.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace fedspallm::comm {

namespace {

/// As wire::decode() wants it of the update itself.
bool plausible(const wire::MatrixReport& report) {
  return std::isfinite(report.error) && std::isfinite(report.seconds) && std::isfinite(report.damping) &&
         report.kept_zeros >= 0 && report.damping_steps >= 0 && report.dead_columns >= 0;
}

}  // namespace

ReadyUnit make_ready(std::size_t index, std::vector<Announcement> said) {
  if (said.empty()) return {.index = index, .said = {}, .scale = {}, .diagonal_scale = {}};
  float largest = 0;
  float largest_diagonal = 0;
  for (const Announcement& one : said) {
    largest = std::max(largest, one.largest);
    largest_diagonal = std::max(largest_diagonal, one.largest_diagonal);
  }
  const auto clients = static_cast<std::int64_t>(said.size());
  return {index, std::move(said), aggregate::FixedPoint::covering(largest, clients),
          aggregate::FixedPoint::covering(largest_diagonal, clients)};
}

Roster::Roster(const PlanIndex& plan) : plan_(plan) {
  for (const PlannedUnit& unit : plan.plan().units) missing_.push_back(unit.clients.size());
}

bool Roster::takes_part(std::uint32_t client, std::size_t index) const {
  const auto dropped = dropped_.find(client);
  if (dropped != dropped_.end() && index >= dropped->second) return false;
  return plan_.unit(index).clients.contains(client);
}

std::size_t Roster::place_of(std::uint32_t client, std::size_t index) const {
  const auto all = plan_.unit(index).clients.all();
  return static_cast<std::size_t>(std::lower_bound(all.begin(), all.end(), client) - all.begin());
}

bool Roster::has_announced(std::uint32_t client, std::size_t index) const {
  if (missing_[index] == 0) return true;
  const auto announced = announced_.find(index);
  return announced != announced_.end() && announced->second.by_place[place_of(client, index)];
}

void Roster::check_announcement(int rank, const PlannedUnit& unit, const Announcement& said) const {
  const auto refuse = [&](const std::string& what) {
    throw PeerError(
        fmt::format("rank {} announced {} of client {}'s update of {}: the run cannot trust it; all ranks "
                    "must run the same build",
                    rank, what, said.client, describe(unit)));
  };
  const bool planned = unit.clients.contains(said.client);
  if (!planned || plan_.rank_of(said.client) != rank) refuse("something that the plan does not expect");
  const std::int64_t weights = unit.rows * unit.cols;
  if (said.kept < 0 || said.kept > weights)
    refuse(fmt::format("{} kept weights (0 to {} are possible)", said.kept, weights));
  if (!std::isfinite(said.largest) || said.largest < 0 || (said.kept == 0 && said.largest != 0))
    refuse(fmt::format("an impossible largest value of {} among {} weights", said.largest, said.kept));
  if (!std::isfinite(said.largest_diagonal) || said.largest_diagonal < 0 ||
      (!unit.with_diagonal && said.largest_diagonal != 0))
    refuse(fmt::format("an impossible largest diagonal element of {}", said.largest_diagonal));
  if (!plausible(said.report)) refuse("a report with an impossible number");
}

void Roster::announce(int rank, std::size_t index, std::vector<Announcement> clients) {
  if (index >= plan_.size()) {
    throw PeerError(
        fmt::format("rank {} announced unit {} of a plan of {}: all ranks must run the same build", rank,
                    index, plan_.size()));
  }
  const PlannedUnit& unit = plan_.unit(index);
  std::erase_if(clients, [&](const Announcement& one) {
    check_announcement(rank, unit, one);
    if (!takes_part(one.client, index)) return true;
    if (has_announced(one.client, index)) {
      throw PeerError(
          fmt::format("rank {} announced client {}'s update of {} twice", rank, one.client, describe(unit)));
    }
    Announced& announced = announced_[index];
    announced.by_place.resize(unit.clients.size());
    announced.by_place[place_of(one.client, index)] = true;
    --missing_[index];
    return false;
  });
  if (clients.empty()) return;
  std::vector<Announcement>& said = announced_[index].said;
  if (said.empty()) {
    said = std::move(clients);  // of very many clients, a copy would count
    return;
  }
  said.reserve(unit.clients.size());
  said.insert(said.end(), clients.begin(), clients.end());
}

bool Roster::drop(std::uint32_t client, std::size_t first) {
  if (dropped_.contains(client)) return false;
  for (std::size_t index = first; index < plan_.size(); ++index) {
    if (!takes_part(client, index)) continue;
    check<PeerError>(!has_announced(client, index), "a client was dropped from a unit that it had announced");
    --missing_[index];
  }
  dropped_[client] = first;
  return true;
}

void Roster::completed(std::size_t index) {
  require(index == completed_, "Roster: units are completed in plan order");
  ++completed_;
  ready_.erase(index);
}

std::shared_ptr<const ReadyUnit> Roster::ready(std::size_t index) {
  require(index >= completed_, "Roster: the unit is not completed yet");
  if (index >= plan_.size() || missing_[index] > 0) return nullptr;
  auto& ready = ready_[index];
  if (ready == nullptr) {
    std::vector<Announcement> said = std::move(announced_[index].said);
    announced_.erase(index);
    std::sort(said.begin(), said.end(),
              [](const Announcement& a, const Announcement& b) { return a.client < b.client; });
    ready = std::make_shared<const ReadyUnit>(make_ready(index, std::move(said)));
  }
  return ready;
}

bool Roster::waits_for_some(std::size_t index) const {
  return missing_[index] > 0 && announced_.contains(index);
}

std::vector<std::uint32_t> Roster::missing(std::size_t index) const {
  std::vector<std::uint32_t> clients;
  for (const std::uint32_t client : plan_.unit(index).clients) {
    if (takes_part(client, index) && !has_announced(client, index)) clients.push_back(client);
  }
  return clients;
}

}  // namespace fedspallm::comm
