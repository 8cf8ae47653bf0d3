// SPDX-License-Identifier: Apache-2.0
// Purpose: how all ranks come to stop or save between the same two blocks (Exchange::at_boundary), as plain
// states: Boundaries of one rank's clients, BoundaryVote at the root. The root asks all ranks; each answers
// at once, because from then on none of its clients begins another block before it has heard the decision. So
// nothing waits for a client, and the block decided on is the first that nobody has begun. Non-goals: threads
// (the gate's lock guards Boundaries), messages.
#pragma once

#include "fedspallm/comm/exchange.hpp"

#include <cstdint>
#include <optional>
#include <set>

namespace fedspallm::comm {

class Boundaries {
 public:
  explicit Boundaries(std::uint32_t first_block = 0) : next_(first_block) {}

  /// The root asks: nobody begins another block until decide(). Returns the first block not begun.
  [[nodiscard]] std::uint32_t hold();
  void decide(Boundary what, std::uint32_t block);

  /// What a rank with clients at work does before `block`, which counts as begun by any answer but stop.
  /// Nothing: wait, because ranks are being asked or there is no `room`.
  [[nodiscard]] std::optional<Boundary> begin(std::uint32_t block, bool room);
  /// The same for a rank whose clients are all gone: it holds nobody up.
  [[nodiscard]] Boundary pass(std::uint32_t block);

  /// The first block not begun.
  [[nodiscard]] std::uint32_t next() const { return next_; }
  /// Where this rank was told to stop.
  [[nodiscard]] std::optional<std::uint32_t> told_to_stop() const { return told_; }

 private:
  std::uint32_t next_;
  bool holding_ = false;
  std::set<std::uint32_t> saves_;  // decided, not told yet
  std::optional<std::uint32_t> stop_;
  std::optional<std::uint32_t> told_;
};

class BoundaryVote {
 public:
  explicit BoundaryVote(int ranks) : ranks_(ranks) {}

  struct Decision {
    Boundary what = Boundary::stop;
    std::uint32_t block = 0;
  };
  /// A rank's wish. True: all ranks are to be asked now.
  [[nodiscard]] bool request(Boundary what);
  /// A rank's answer, its first block not begun; the decision with the last one. A stop that was wished for
  /// meanwhile wins.
  [[nodiscard]] std::optional<Decision> answer(std::uint32_t next);

 private:
  int ranks_;
  Boundary wanted_ = Boundary::go_on;
  bool stopped_ = false;
  bool asking_ = false;
  int answers_ = 0;
  std::uint32_t next_ = 0;
};

}  // namespace fedspallm::comm
