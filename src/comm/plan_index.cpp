// SPDX-License-Identifier: Apache-2.0
#include "plan_index.hpp"

#include "fedspallm/base/hash.hpp"
#include "fedspallm/base/rounding.hpp"
#include "fedspallm/wire/device.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::comm {

namespace {

void check_unit(const ExchangePlan& plan, std::size_t index) {
  const PlannedUnit& unit = plan.units[index];
  require(unit.id.block >= plan.first_block, "plan: units are of first_block or later");
  require(unit.rows >= 1 && unit.cols >= 1, "plan: rows, cols >= 1");
  require(!unit.clients.empty(), "plan: every unit has a client");
  const bool checked = index > 0 && unit.clients.shares(plan.units[index - 1].clients);
  require(checked || std::adjacent_find(unit.clients.begin(), unit.clients.end(), std::greater_equal<>()) ==
                         unit.clients.end(),
          "plan: the clients of a unit ascend");
  require(unit.clients.back() < plan.rank_of_client.size(), "plan: every client of a unit has a rank");
  require(unit.diagonal_unit <= index, "plan: the unit that carries a group's diagonal comes first");
  require(plan.units[unit.diagonal_unit].diagonal_unit == unit.diagonal_unit,
          "plan: a unit that carries the diagonal of a group belongs to that group");
  if (index == 0) return;
  const wire::UnitId& before = plan.units[index - 1].id;
  require(std::pair(before.block, before.matrix) < std::pair(unit.id.block, unit.id.matrix),
          "plan: units are ordered by (block, matrix)");
}

}  // namespace

PlanIndex::PlanIndex(ExchangePlan plan, int ranks) : plan_(std::move(plan)) {
  require(plan_.client_names.empty() || plan_.client_names.size() == plan_.rank_of_client.size(),
          "plan: a name for every client or for none");
  for (const int rank : plan_.rank_of_client)
    require(rank >= 0 && rank < ranks, "plan: 0 <= rank of a client < ranks");
  block_.resize(size() + 1);
  last_of_group_.resize(size());
  std::vector<std::size_t> last(size());
  for (std::size_t i = 0; i < size(); ++i) {
    check_unit(plan_, i);
    const bool same_block = i > 0 && unit(i).id.block == unit(i - 1).id.block;
    block_[i] = i == 0 ? 0 : block_[i - 1] + (same_block ? 0 : 1);
    last[unit(i).diagonal_unit] = i;
  }
  if (size() > 0) block_.back() = block_[size() - 1] + 1;
  for (std::size_t i = 0; i < size(); ++i) last_of_group_[i] = last[unit(i).diagonal_unit];
}

std::string PlanIndex::name_of(std::uint32_t client) const {
  return plan_.client_names.empty() ? fmt::format("client {}", client)
                                    : fmt::format("client '{}'", plan_.client_names.at(client));
}

std::size_t PlanIndex::clients_on(std::size_t index, int rank) const {
  const auto& clients = unit(index).clients;
  return static_cast<std::size_t>(std::count_if(
      clients.begin(), clients.end(), [&](std::uint32_t client) { return rank_of(client) == rank; }));
}

std::size_t PlanIndex::first_unit_of(std::uint32_t block) const {
  const auto found =
      std::lower_bound(plan_.units.begin(), plan_.units.end(), block,
                       [](const PlannedUnit& unit, std::uint32_t wanted) { return unit.id.block < wanted; });
  return static_cast<std::size_t>(found - plan_.units.begin());
}

std::size_t PlanIndex::next_of(std::uint32_t client, std::size_t from) const {
  while (from < size() && !unit(from).clients.contains(client)) ++from;
  return from;
}

std::int64_t PlanIndex::largest_update() const {
  std::int64_t largest = 0;
  for (const PlannedUnit& unit : plan_.units) {
    const bool travels = std::any_of(unit.clients.begin(), unit.clients.end(),
                                     [&](std::uint32_t client) { return rank_of(client) != 0; });
    if (travels) largest = std::max(largest, update_bytes(unit));
  }
  return largest;
}

std::int64_t PlanIndex::largest_on_device() const {
  std::int64_t largest = 0;
  for (const PlannedUnit& unit : plan_.units) largest = std::max(largest, device_bytes(unit));
  return largest;
}

std::int64_t PlanIndex::fingerprint() const {
  RunningChecksum all;
  const auto add = [&](const std::string& text) { all.add(std::as_bytes(std::span(text))); };
  std::uint64_t clients = 0;
  for (std::size_t i = 0; i < size(); ++i) {
    const PlannedUnit& one = unit(i);
    if (i == 0 || !one.clients.shares(unit(i - 1).clients))
      clients = checksum(std::as_bytes(one.clients.all()));
    add(fmt::format("{} {} {} {} {} {} {} {} {} {}: {} ", one.id.round, one.id.block, one.id.matrix, one.name,
                    one.rows, one.cols, static_cast<int>(one.dtype), one.with_diagonal, one.diagonal_unit,
                    one.expected_kept, clients));
  }
  all.add(std::as_bytes(std::span(plan_.rank_of_client)));
  add(fmt::format(" from {}", plan_.first_block));
  return static_cast<std::int64_t>(all.value() >> 1);
}

std::int64_t update_bytes(const PlannedUnit& unit) {
  const std::int64_t kept = unit.expected_kept >= 0 ? unit.expected_kept : unit.rows * unit.cols;
  return wire::encoded_bytes(unit.rows, unit.cols, kept, unit.dtype, unit.with_diagonal);
}

std::int64_t device_bytes(const PlannedUnit& unit) {
  const std::int64_t kept = unit.expected_kept >= 0 ? unit.expected_kept : unit.rows * unit.cols;
  return wire::device_layout(unit.rows, unit.cols, kept, unit.dtype, unit.with_diagonal).bytes;
}

std::int64_t merge_bytes(const PlannedUnit& unit) {
  const std::int64_t tiles = divide_up(unit.rows * unit.cols, aggregate::kTile);
  const std::int64_t diagonal = unit.with_diagonal ? unit.cols : 0;
  return tiles * static_cast<std::int64_t>(sizeof(aggregate::Tile)) +
         diagonal * static_cast<std::int64_t>(sizeof(std::int64_t));
}

std::string describe(const PlannedUnit& unit) {
  return fmt::format("{} (round {}, block {})", unit.name, unit.id.round, unit.id.block);
}

}  // namespace fedspallm::comm
