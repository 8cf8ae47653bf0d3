// SPDX-License-Identifier: Apache-2.0
// Purpose: the root's end of a merge, on its merge thread: adding gathered updates one unit at a time, and
// handing complete units to the callback together with the diagonal sums of their input group. Not
// thread-safe.
#pragma once

#include "rank_context.hpp"
#include "roster.hpp"
#include <map>
#include <memory>
#include <optional>

namespace fedspallm::comm {

class RootMerge {
 public:
  RootMerge(const RankContext& context, Exchange::OnCompleted on_completed)
      : context_(context), on_completed_(std::move(on_completed)) {}

  /// Adds some clients' updates; units in plan order. True when all of the unit's are in.
  bool add(const ReadyUnit& ready, std::span<const wire::MatrixUpdate> updates);
  /// The same for one update as it travelled. @throws DataError when it is not what was announced
  bool add_encoded(const ReadyUnit& ready, const Announcement& said, std::span<const std::byte> bytes);
  /// The same for one that came to the device.
  bool add_on_device(const ReadyUnit& ready, const Announcement& said, std::span<const std::byte> piece);
  /// Hands over the unit whose updates were added, finished where that is done on the device.
  /// @pre adding has returned true
  void complete_added(const ReadyUnit& ready);
  /// Hands over a unit that was merged elsewhere (reduce), or (null) that lost all its clients.
  void complete(const ReadyUnit& ready, const aggregate::PartialMerge* merge);

 private:
  struct Group {
    std::vector<std::int64_t> sums;
    aggregate::FixedPoint scale;
  };
  const RankContext& context_;
  Exchange::OnCompleted on_completed_;
  void begin(const ReadyUnit& ready);
  void check_and_add(const ReadyUnit& ready, const Announcement& said, std::span<const std::byte> piece);

  std::unique_ptr<CountedMerge> current_;
  std::unique_ptr<DeviceMerge> on_device_;  // nccl: the tiles of current_
  std::size_t added_ = 0;
  std::map<std::size_t, Group> groups_;  // by diagonal unit, until the last unit of the group is done
};

}  // namespace fedspallm::comm
