// SPDX-License-Identifier: Apache-2.0
// Purpose: sums of short vectors over all ranks, known to all of them: up a binary tree of ranks, and down
// again. So a rank sends at most three vectors a sum, however many ranks there are. Several sums may be under
// way at once, told apart by unit and step. Communication thread only.
#pragma once

#include "messages.hpp"
#include "rank_context.hpp"
#include <functional>
#include <map>
#include <utility>
#include <vector>

namespace fedspallm::comm {

class TreeSum {
 public:
  using Done = std::function<void(std::vector<std::int64_t>&& sums)>;

  explicit TreeSum(const RankContext& context) : context_(context) {}

  /// This rank's part. Once per rank, unit and step.
  void add(std::uint64_t unit, std::uint32_t step, std::vector<std::int64_t> values, Done done);
  /// @throws PeerError when the message does not fit to what is known of the sum
  void on(int rank, SumMessage&& message);
  [[nodiscard]] bool empty() const { return sums_.empty(); }
  /// Nothing more is summed or said.
  void stop() {
    sums_.clear();
    stopped_ = true;
  }

 private:
  using Key = std::pair<std::uint64_t, std::uint32_t>;
  struct Sum {
    std::vector<std::int64_t> values;
    int parts = 0;  // own and children's
    Done done;
  };
  void add_part(const Key& key, std::vector<std::int64_t>&& values);
  void go_down(const Key& key, std::vector<std::int64_t> values);
  [[nodiscard]] int children() const;

  const RankContext& context_;
  std::map<Key, Sum> sums_;
  bool stopped_ = false;
};

/// Ranks to which `rank` of `ranks` passes the result of a sum: none, one or two.
[[nodiscard]] std::vector<int> children_of(int rank, int ranks);

}  // namespace fedspallm::comm
