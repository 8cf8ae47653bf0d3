// SPDX-License-Identifier: Apache-2.0
// Purpose: made-up plans and updates for tests of the exchange, keyed by (unit, client), so that every rank
// can make any of them and the root can merge all of them serially as the expected result.
#pragma once

#include "fedspallm/comm/exchange.hpp"

#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

namespace fedspallm::comm::test {

/// Every way of merging; all give the same bits.
enum class Way { gather, reduce, nccl, owners, nodes };
[[nodiscard]] std::string name_of(Way way);
inline void PrintTo(Way way, std::ostream* stream) {
  *stream << name_of(way);
}
/// How clients are spread on ranks.
enum class Placement { round_robin, all_on_root, all_on_last, none_on_root };

struct Shape {
  std::int64_t rows = 1, cols = 1;
  DType dtype = DType::f32;
};

struct CaseOptions {
  std::uint32_t clients = 2;
  Placement placement = Placement::round_robin;
  int ranks = 1;
  std::uint32_t blocks = 2;
  std::vector<Shape> shapes = {
      {8, 8, DType::f32}};  // of the matrices of one block; the first two share an input group
  bool diagonals = true;
  bool sampled = false;  // each block is pruned by some of the clients only
};

[[nodiscard]] ExchangePlan make_plan(const CaseOptions& options);
[[nodiscard]] wire::MatrixUpdate make_update(const ExchangePlan& plan, std::size_t index,
                                             std::uint32_t client);

/// The same kind of update with exactly `kept` weights kept.
[[nodiscard]] wire::MatrixUpdate with_kept(const ExchangePlan& plan, std::size_t index, std::uint32_t client,
                                           std::int64_t kept);

/// What the root's callback saw of one unit: the sums, or (owners) the finished matrix. Compared by what both
/// sides have.
struct Seen {
  std::optional<aggregate::MergedMatrix> finished;
  std::vector<aggregate::Tile> tiles;
  std::vector<std::int64_t> diagonal_sums;
  int q = 0, diagonal_q = 0;
  std::vector<std::uint32_t> clients;
  std::vector<std::int64_t> kept;
  std::vector<double> errors;  // of the reports
  friend bool operator==(const Seen&, const Seen&);
};
[[nodiscard]] inline bool was_merged(const CompletedUnit& unit) {
  return unit.merge != nullptr || unit.finished != nullptr;
}
/// @pre the unit was merged
[[nodiscard]] Seen copy_of(const CompletedUnit& unit);
/// All clients' updates of each unit merged one after the other in this process; nothing of a unit without
/// clients.
[[nodiscard]] std::vector<Seen> merge_serially(const ExchangePlan& plan);

/// This rank's part of a whole exchange: its clients deliver everything, in an order and with pauses that
/// `seed` decides (0: plain order, no pauses).
void deliver_all(Exchange& exchange, const ExchangePlan& plan, int rank, std::uint64_t seed);

/// A whole exchange; the root gets what its callback saw, in the order of the calls.
struct Outcome {
  std::vector<std::size_t> order;
  std::vector<Seen> seen;  // parallel to order
  ExchangeStatistics statistics;
};
[[nodiscard]] Outcome run_exchange(Communicator& comm, const ExchangePlan& plan,
                                   const ExchangeOptions& options, std::uint64_t seed);

/// This rank's client loop with agreed boundaries: blocks outside, clients inside.
struct WalkOptions {
  std::uint32_t blocks = 0;                           // of the model
  std::uint64_t seed = 0;                             // 0: no pauses
  std::map<std::uint32_t, std::uint32_t> drops = {};  // client -> block from which on it delivers nothing
  std::function<void(std::uint32_t block)> before_boundary = {};
  std::function<void(std::uint32_t block)> before_last_submit = {};  // of the rank in this block
};
struct Walk {
  std::vector<std::uint32_t> begun, saved;
  std::optional<std::uint32_t> stopped;
};
/// Blocks outside the plan are begun too, from `first` on; a rank without clients returns at once.
[[nodiscard]] Walk walk(Exchange& exchange, const ExchangePlan& plan, int rank, const WalkOptions& options,
                        std::uint32_t first = 0);
void remove_clients(PlannedUnit& unit, const std::function<bool(std::uint32_t client)>& which);
/// The plan as it comes to be merged when these clients are dropped at these blocks.
[[nodiscard]] ExchangePlan without(ExchangePlan plan, const std::map<std::uint32_t, std::uint32_t>& drops);

/// What step() throws, as "STATUS: message"; "" when nothing.
[[nodiscard]] std::string thrown_by(const std::function<void()>& step);

}  // namespace fedspallm::comm::test
