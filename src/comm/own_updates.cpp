// SPDX-License-Identifier: Apache-2.0
#include "own_updates.hpp"

#include <algorithm>

namespace fedspallm::comm {

wire::MatrixUpdate make_summarized(const RankContext& context, std::size_t index, const UpdateSummary& said,
                                   const MakeUpdate& make) {
  const ScopedTime time(context.making_nanoseconds);
  wire::MatrixUpdate update = make(said.client);
  const PlannedUnit& unit = context.plan.unit(index);
  const std::size_t diagonal = unit.with_diagonal ? static_cast<std::size_t>(unit.cols) : 0;
  check<LogicError>(update.unit == unit.id && update.client == said.client &&
                        update.matrix.rows == unit.rows && update.matrix.cols == unit.cols &&
                        update.matrix.dtype == unit.dtype && update.matrix.kept == said.kept &&
                        update.hessian_diagonal.size() == diagonal,
                    fmt::format("submit_later: another update was made than was summarized of client {}: {}",
                                said.client, describe(unit)));
  return update;
}

void add_in_passes(const RankContext& context, std::size_t index, OwnUpdates& own,
                   const std::function<bool(std::span<const wire::MatrixUpdate>)>& add) {
  const bool go_on = own.ready.empty() || add(own.ready);
  own.ready = {};
  for (std::size_t begin = 0; go_on && begin < own.later.size(); begin += kMadeAtOnce) {
    const PlannedUnit& unit = context.plan.unit(index);
    std::vector<wire::MatrixUpdate> made;
    std::int64_t bytes = 0;
    for (std::size_t i = begin; i < std::min(begin + kMadeAtOnce, own.later.size()); ++i) {
      const ScopedTime not_merging(context.merging_nanoseconds, -1);
      made.push_back(make_summarized(context, index, own.later[i], own.make));
      bytes += wire::encoded_bytes(unit.rows, unit.cols, own.later[i].kept, unit.dtype, unit.with_diagonal);
    }
    context.merge_memory.add(bytes);
    struct Forget {
      Gauge& gauge;
      std::int64_t bytes;
      ~Forget() { gauge.subtract(bytes); }
    } const forget{context.merge_memory, bytes};
    if (!add(made)) return;
  }
}

}  // namespace fedspallm::comm
