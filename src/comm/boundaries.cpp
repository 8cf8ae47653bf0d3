// SPDX-License-Identifier: Apache-2.0
#include "boundaries.hpp"

#include <algorithm>

namespace fedspallm::comm {

std::uint32_t Boundaries::hold() {
  holding_ = true;
  return next_;
}

void Boundaries::decide(Boundary what, std::uint32_t block) {
  holding_ = false;
  if (what == Boundary::save) {
    saves_.insert(block);
  } else {
    stop_ = block;
  }
}

std::optional<Boundary> Boundaries::begin(std::uint32_t block, bool room) {
  if (holding_) return std::nullopt;
  if (stop_ && block >= *stop_) {
    told_ = stop_;
    return Boundary::stop;
  }
  if (!room) return std::nullopt;
  next_ = std::max(next_, block + 1);
  return saves_.erase(block) > 0 ? Boundary::save : Boundary::go_on;
}

Boundary Boundaries::pass(std::uint32_t block) {
  if (!stop_ || block < *stop_) return Boundary::go_on;
  told_ = stop_;
  return Boundary::stop;
}

bool BoundaryVote::request(Boundary what) {
  if (stopped_) return false;
  wanted_ = std::max(wanted_, what);
  if (asking_) return false;
  asking_ = true;
  return true;
}

std::optional<BoundaryVote::Decision> BoundaryVote::answer(std::uint32_t next) {
  check<PeerError>(asking_, "a rank answered a question about boundaries that the root had not asked");
  next_ = std::max(next_, next);
  if (++answers_ < ranks_) return std::nullopt;
  const Decision decision{wanted_, next_};
  stopped_ = wanted_ == Boundary::stop;
  asking_ = false;
  answers_ = 0;
  wanted_ = Boundary::go_on;
  return decision;
}

}  // namespace fedspallm::comm
