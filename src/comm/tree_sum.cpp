// SPDX-License-Identifier: Apache-2.0
#include "tree_sum.hpp"

namespace fedspallm::comm {

std::vector<int> children_of(int rank, int ranks) {
  std::vector<int> children;
  for (const int child : {2 * rank + 1, 2 * rank + 2})
    if (child < ranks) children.push_back(child);
  return children;
}

int TreeSum::children() const {
  return static_cast<int>(children_of(context_.link.rank(), context_.link.size()).size());
}

void TreeSum::add(std::uint64_t unit, std::uint32_t step, std::vector<std::int64_t> values, Done done) {
  if (stopped_) return;
  const Key key{unit, step};
  sums_[key].done = std::move(done);
  add_part(key, std::move(values));
}

void TreeSum::add_part(const Key& key, std::vector<std::int64_t>&& values) {
  Sum& sum = sums_[key];
  check<PeerError>(sum.parts == 0 || sum.values.size() == values.size(),
                   "a rank sums another number of values: all ranks must run the same build");
  if (sum.parts == 0) {
    sum.values = std::move(values);
  } else {
    for (std::size_t i = 0; i < values.size(); ++i) sum.values[i] += values[i];
  }
  if (++sum.parts <= children()) return;
  if (context_.link.rank() == 0) {
    go_down(key, std::move(sum.values));
  } else {
    const int parent = (context_.link.rank() - 1) / 2;
    context_.link.post(parent, SumMessage{key.first, key.second, false, std::move(sum.values)});
  }
}

void TreeSum::go_down(const Key& key, std::vector<std::int64_t> values) {
  const auto found = sums_.find(key);
  check<PeerError>(found != sums_.end() && found->second.done != nullptr,
                   "a rank passed on a sum that this one has no part in");
  const Done done = std::move(found->second.done);
  sums_.erase(found);
  for (const int child : children_of(context_.link.rank(), context_.link.size()))
    context_.link.post(child, SumMessage{key.first, key.second, true, values});
  done(std::move(values));
}

void TreeSum::on(int, SumMessage&& message) {
  if (stopped_) return;
  const Key key{message.unit, message.step};
  if (message.complete) {
    go_down(key, std::move(message.values));
  } else {
    add_part(key, std::move(message.values));
  }
}

}  // namespace fedspallm::comm
