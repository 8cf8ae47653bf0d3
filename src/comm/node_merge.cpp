// SPDX-License-Identifier: Apache-2.0
#include "node_merge.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::comm {

NodeMerge::NodeMerge(const RankContext& context, Worker& adder, Chain& chain, Take take)
    : context_(context),
      adder_(adder),
      chain_(chain),
      take_(std::move(take)),
      leader_(context.options.leaders[static_cast<std::size_t>(context.link.rank())]) {
  if (leader_ == context.link.rank())  // what the node shares is counted once
    context.merge_memory.add(NodeMemory::kStates * context.options.node_memory->state_bytes());
}

aggregate::SharedMerge NodeMerge::state(std::size_t number, std::size_t index, int q, int diagonal_q) const {
  const PlannedUnit& unit = context_.plan.unit(index);
  return {
      context_.options.node_memory->state(static_cast<int>(number)), unit.rows, unit.cols, {q}, {diagonal_q}};
}

void NodeMerge::on(const ScaleMessage& message) {
  const bool known = std::ranges::all_of(message.adders, [this](int rank) {
    return rank >= 0 && rank < context_.link.size() &&
           context_.options.leaders[static_cast<std::size_t>(rank)] == context_.link.rank();
  });
  check<PeerError>(known, "the root wants ranks of another node to add to this one's sums");
  chain_.start(message);
  waiting_.push_back(message);
  advance();
}

void NodeMerge::advance() {
  for (std::size_t number = 0; number < taken_->size() && !waiting_.empty(); ++number) {
    if ((*taken_)[number].exchange(true)) continue;
    const ScaleMessage message = std::move(waiting_.front());
    waiting_.pop_front();
    begin(message, number);
  }
}

void NodeMerge::begin(const ScaleMessage& message, std::size_t number) {
  const auto index = static_cast<std::size_t>(message.unit);
  aggregate::SharedMerge shared = state(number, index, message.q, message.diagonal_q);
  shared.clear();
  Adding unit;
  unit.sums = {new CountedMerge(shared.sums(), context_.merge_memory),
               [taken = taken_, number](const CountedMerge* sums) {
                 delete sums;  // nothing of them is under way any more
                 (*taken)[number] = false;
               }};
  // A root whose node has no clients of the unit begins with zeros, which somebody must write.
  std::vector<std::int32_t> adders = message.adders;
  if (adders.empty()) adders.push_back(context_.link.rank());
  unit.left = adders.size();
  adding_[index] = std::move(unit);
  context_.options.node_memory->sync();
  for (std::size_t adder = 0; adder < adders.size(); ++adder)
    context_.link.post(adders[adder], AddMessage{.unit = message.unit,
                                                 .q = message.q,
                                                 .diagonal_q = message.diagonal_q,
                                                 .state = static_cast<std::uint32_t>(number),
                                                 .adder = static_cast<std::uint32_t>(adder),
                                                 .adders = static_cast<std::uint32_t>(adders.size())});
}

void NodeMerge::on(const AddMessage& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  check<PeerError>(
      index < context_.plan.size() && message.state < taken_->size() && message.adder < message.adders,
      "a leader asked for an addition that is not of this plan");
  context_.options.node_memory->sync();
  const auto own = std::make_shared<OwnUpdates>(take_(index));
  adder_.post([this, message, own] {
    struct Tell {  // also when adding throws: the leader waits
      NodeMerge& self;
      AddedMessage answer;
      ~Tell() {
        self.context_.desk.post([&node = self, said = answer] {
          node.context_.options.node_memory->sync();
          node.context_.link.post(node.leader_, said);
        });
      }
    } tell{*this, {message.unit, true}};
    tell.answer.failed = !add(message, *own);
  });
}

/// On the worker thread. False when waiting was ended.
bool NodeMerge::add(const AddMessage& message, OwnUpdates& own) {
  const ScopedTime time(context_.merging_nanoseconds);
  const auto index = static_cast<std::size_t>(message.unit);
  aggregate::SharedMerge shared = state(message.state, index, message.q, message.diagonal_q);
  const aggregate::SharedMerge::Turn turn{static_cast<int>(message.adder), static_cast<int>(message.adders)};
  bool added = true;
  const auto add_some = [&](std::span<const wire::MatrixUpdate> some) {
    added = shared.add(some, turn, [this] { return !aborted_; });
    return added;
  };
  const std::size_t updates = own.size();
  if (updates == 0) return add_some({});
  add_in_passes(context_, index, own, add_some);
  context_.gate.taken(context_.plan.block_of(index), updates);
  return added;
}

void NodeMerge::on(const AddedMessage& message) {
  const auto unit = adding_.find(static_cast<std::size_t>(message.unit));
  check<PeerError>(unit != adding_.end(), "a rank has added to a unit that is not being added up");
  unit->second.failed |= message.failed;
  if (--unit->second.left > 0) return;
  context_.options.node_memory->sync();
  chain_.merged(unit->first, unit->second.failed ? nullptr : unit->second.sums);
  adding_.erase(unit);
}

}  // namespace fedspallm::comm
