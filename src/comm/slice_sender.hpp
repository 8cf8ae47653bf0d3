// SPDX-License-Identifier: Apache-2.0
// Purpose: owners topology, the clients' side: cuts own clients' updates into slices, one for each owner, and
// sends each when its owner asks for it. cut_update() runs on the client's thread, the rest on the
// communication thread.
#pragma once

#include "rank_context.hpp"
#include "slice_plan.hpp"
#include <map>
#include <memory>
#include <vector>

namespace fedspallm::comm {

/// One update cut up: the own slice as it is, the others' encoded one after the other.
struct CutUpdate {
  std::uint32_t client = 0;
  wire::PackedMatrix own;          // size x 1
  std::vector<float> diagonal;     // diag(H), whole
  std::vector<std::byte> encoded;  // slices of the other owners, in their order
  std::vector<std::size_t> begin;  // owners + 1 places in `encoded`; equal ones = nothing travels
  std::vector<std::int64_t> kept;  // by owner
};

/// @param owner  whose slice is not encoded: this rank
[[nodiscard]] CutUpdate cut_update(const PlannedUnit& unit, const ExchangeOptions& options,
                                   wire::MatrixUpdate&& update, int owner, int owners);

class SliceSender {
 public:
  explicit SliceSender(const RankContext& context) : context_(context) {}

  /// The unit's merge begins: tells each owner what it can have. `updates`: of this rank's clients that take
  /// part, by client; may be empty.
  void offer(std::size_t index, std::vector<CutUpdate>&& updates);
  /// @throws PeerError when the owner asks for what was not offered
  void on(int owner, const AskMessage& message);
  /// The slices that this rank owns itself were added up.
  void own_added(std::size_t index);
  /// Own clients' updates of an offered unit, until own_added().
  [[nodiscard]] std::vector<std::shared_ptr<const CutUpdate>> updates(std::size_t index) const;
  [[nodiscard]] bool empty() const { return units_.empty(); }

 private:
  struct Unit {
    std::vector<std::shared_ptr<CutUpdate>> updates;
    std::vector<std::size_t> left;  // per update: owners that do not have it yet, this rank included
  };
  void gone(std::size_t index, std::size_t position);
  const RankContext& context_;
  std::map<std::size_t, Unit> units_;
};

}  // namespace fedspallm::comm
