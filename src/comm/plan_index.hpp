// SPDX-License-Identifier: Apache-2.0
// Purpose: what follows from an ExchangePlan alone, the same on all ranks: who sends what, in which order,
// how much.
#pragma once

#include "fedspallm/comm/exchange.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace fedspallm::comm {

class PlanIndex {
 public:
  /// @throws LogicError when the plan contradicts itself or names ranks outside [0, ranks)
  PlanIndex(ExchangePlan plan, int ranks);

  [[nodiscard]] const ExchangePlan& plan() const { return plan_; }
  [[nodiscard]] std::size_t size() const { return plan_.units.size(); }
  [[nodiscard]] const PlannedUnit& unit(std::size_t index) const { return plan_.units[index]; }
  [[nodiscard]] int rank_of(std::uint32_t client) const { return plan_.rank_of_client[client]; }

  /// For messages: "client 'novels'", or by number where the plan has no names.
  [[nodiscard]] std::string name_of(std::uint32_t client) const;
  /// Number of clients of `rank` that deliver the unit.
  [[nodiscard]] std::size_t clients_on(std::size_t index, int rank) const;
  /// First unit of this block or a later one; size() when there is none.
  [[nodiscard]] std::size_t first_unit_of(std::uint32_t block) const;
  /// The first unit from `from` on that `client` delivers; size() when there is none.
  [[nodiscard]] std::size_t next_of(std::uint32_t client, std::size_t from) const;
  /// Number of the unit's block among the plan's blocks; of the end of the plan, the number of blocks.
  [[nodiscard]] std::size_t block_of(std::size_t index) const { return block_[index]; }
  /// The last unit that shares this unit's diagonal_unit.
  [[nodiscard]] std::size_t last_of_group(std::size_t index) const { return last_of_group_[index]; }
  /// Bytes of the largest update that travels by gather, where counts are known; else were every weight kept.
  [[nodiscard]] std::int64_t largest_update() const;
  /// The same of the transport nccl, of all clients.
  [[nodiscard]] std::int64_t largest_on_device() const;
  /// Of everything in the plan, to compare it among ranks.
  [[nodiscard]] std::int64_t fingerprint() const;

 private:
  ExchangePlan plan_;
  std::vector<std::size_t> block_;  // one more than units
  std::vector<std::size_t> last_of_group_;
};

/// Bytes of one client's update of the unit (all weights kept where the count is unknown).
[[nodiscard]] std::int64_t update_bytes(const PlannedUnit& unit);
/// The same as a device holds it (nccl).
[[nodiscard]] std::int64_t device_bytes(const PlannedUnit& unit);
/// Bytes of the unit's merge state: tiles, and sums of diag(H) where they travel.
[[nodiscard]] std::int64_t merge_bytes(const PlannedUnit& unit);

/// For messages: "model.layers.0.mlp.up_proj.weight (round 1, block 0)".
[[nodiscard]] std::string describe(const PlannedUnit& unit);

}  // namespace fedspallm::comm
