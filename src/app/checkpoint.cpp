// SPDX-License-Identifier: Apache-2.0
#include "checkpoint.hpp"

#include "fedspallm/base/error.hpp"

#include <nlohmann/json.hpp>

#include "plan.hpp"
#include <algorithm>
#include <map>
#include <set>

namespace fedspallm::app {

namespace {

constexpr double kShareOfTime = 0.02;
constexpr std::uint32_t kRarest = 1 << 16;
constexpr std::int64_t kPieceBytes = std::int64_t{8} << 20;

std::int64_t rows_per_piece(std::int64_t columns) {
  return std::max<std::int64_t>(1, kPieceBytes / (columns * 4));
}

bool prunes(const RunShape& shape, const std::vector<DroppedClient>& dropped, std::uint32_t client,
            store::Position position) {
  return shape.drawn[position.round - 1][client][position.block] && !is_dropped(dropped, client, position);
}

/// Every position in which something is done, in order.
template <class Visit>
void for_each_position(const RunShape& shape, Visit visit) {
  for (store::Position position; position < end_of(shape); position = after(shape, position))
    if (!visit(position)) return;
}

/// The first block of the client's own file that is missing or damaged.
store::Position own_until(const ClientFiles& files, const RunShape& shape,
                          const std::vector<DroppedClient>& dropped) {
  if (files.own == nullptr) return end_of(shape);
  store::Position until = end_of(shape);
  for_each_position(shape, [&](store::Position position) {
    if (!prunes(shape, dropped, files.client, position)) return true;
    try {
      (void)files.own->read_block(position.round, position.block);
      return true;
    } catch (const Error&) {  // missing and damaged are the same here: it is made again
      until = position;
      return false;
    }
  });
  return until;
}

/// Positions at which the client could begin, as JSON: states that it has (not verified yet), and every
/// round's begin, up to what its own file holds.
nlohmann::json candidates_of(const ClientFiles& files, const RunShape& shape,
                             const std::vector<DroppedClient>& dropped) {
  const store::Position until = own_until(files, shape, dropped);
  nlohmann::json list = nlohmann::json::array();
  for (const store::Position position : files.states->positions())
    if (position <= until && position.block < shape.blocks) list.push_back({position.round, position.block});
  for (std::uint32_t round = 1; round <= shape.rounds + 1; ++round)
    if (store::Position{round, 0} <= until) list.push_back({round, 0});
  return {{"client", files.client}, {"positions", list}};
}

using Candidates = std::map<std::uint32_t, std::set<store::Position>>;  // by client

/// The newest position not after `bound` that every client has.
store::Position newest_common(const Candidates& candidates, const std::vector<DroppedClient>& dropped,
                              store::Position bound) {
  std::set<store::Position> all = {{1, 0}};
  for (const auto& [client, positions] : candidates) all.insert(positions.begin(), positions.end());
  for (std::uint32_t round = 1; round <= bound.round; ++round) all.insert({round, 0});
  for (auto position = all.rbegin(); position != all.rend(); ++position) {
    if (*position > bound) continue;
    const bool common = std::all_of(candidates.begin(), candidates.end(), [&](const auto& entry) {
      return entry.second.contains(*position) || is_dropped(dropped, entry.first, *position);
    });
    if (common) return *position;
  }
  return {1, 0};
}

/// The clients of this rank whose state at `position` is damaged, as text; "" = all are sound.
std::string damaged_states(const std::vector<ClientFiles>& mine, store::Position position,
                           const std::vector<DroppedClient>& dropped) {
  std::string names;
  for (const ClientFiles& files : mine)
    if (position.block > 0 && !is_dropped(dropped, files.client, position) &&
        !files.states->verify(position, files.rows, files.columns))
      names += fmt::format("{}{}", names.empty() ? "" : ", ", files.client);
  return names;
}

store::Position broadcast(comm::Communicator& communicator, store::Position position) {
  const std::string text = communicator.broadcast(fmt::format("{} {}", position.round, position.block));
  const std::size_t space = text.find(' ');
  return {static_cast<std::uint32_t>(std::stoul(text)),
          static_cast<std::uint32_t>(std::stoul(text.substr(space + 1)))};
}

}  // namespace

RunShape shape_of_run(const config::Config& config, const model::ModelDirectory& model) {
  RunShape shape;
  shape.rounds = static_cast<std::uint32_t>(config.federation.rounds);
  shape.blocks = static_cast<std::uint32_t>(model.architecture().blocks);
  for (std::uint32_t round = 1; round <= shape.rounds; ++round)
    shape.drawn.push_back(draw_round(config, model.architecture().blocks, round));
  return shape;
}

store::Position end_of(const RunShape& shape) {
  return {shape.rounds + 1, 0};
}

store::Position after(const RunShape& shape, store::Position position) {
  return position.block + 1 < shape.blocks ? store::Position{position.round, position.block + 1}
                                           : store::Position{position.round + 1, 0};
}

std::int64_t blocks_before(const RunShape& shape, store::Position position) {
  return (std::int64_t{position.round} - 1) * shape.blocks + position.block;
}

store::Position merged_until(const store::BlockStore& merged, const RunShape& shape,
                             const std::vector<DroppedClient>& dropped,
                             const std::function<void(const std::string&)>& say) {
  store::Position until = end_of(shape);
  for_each_position(shape, [&](store::Position position) {
    bool covered = false;
    for (std::uint32_t client = 0; client < shape.drawn[position.round - 1].size(); ++client)
      covered |= prunes(shape, dropped, client, position);
    if (!covered) return true;
    if (merged.has_block(position.round, position.block)) {
      try {
        (void)merged.read_block(position.round, position.block);
        return true;
      } catch (const DataError& error) {
        say(fmt::format("{}; falling back to the block before it", error.what()));
      }
    }
    until = position;
    return false;
  });
  return until;
}

store::Position find_start(comm::Communicator& communicator, const RunShape& shape, store::Position merged,
                           const std::vector<ClientFiles>& mine, const std::vector<DroppedClient>& dropped,
                           const std::function<void(const std::string&)>& say) {
  nlohmann::json list = nlohmann::json::array();
  communicator.together([&] {
    for (const ClientFiles& files : mine) list.push_back(candidates_of(files, shape, dropped));
  });
  Candidates candidates;
  for (const std::string& text : communicator.gather(list.dump())) {
    const auto theirs = nlohmann::json::parse(text);
    for (const auto& entry : theirs)
      for (const auto& position : entry["positions"])
        candidates[entry["client"]].insert({position[0], position[1]});
  }
  while (true) {
    const store::Position start =
        broadcast(communicator,
                  newest_common(candidates, dropped, communicator.rank() == 0 ? merged : store::Position{}));
    const std::string damaged = damaged_states(mine, start, dropped);
    bool sound = true;
    for (const std::string& clients : communicator.gather(damaged)) {
      if (clients.empty()) continue;
      sound = false;
      say(fmt::format("the saved state before block {} of round {} is damaged (client {}); falling back",
                      start.block, start.round, clients));
    }
    if (communicator.broadcast(std::string(sound ? "sound" : "damaged")) == "sound") return start;
    merged = {start.round, start.block - 1};  // block > 0: a round's begin needs no state
  }
}

std::uint32_t blocks_between_states(double save_seconds, double block_seconds) {
  std::uint32_t blocks = 1;
  while (blocks < kRarest && save_seconds > kShareOfTime * block_seconds * blocks) blocks *= 2;
  return blocks;
}

void save_state(backend::Backend& backend, backend::View hidden, store::StateStore& states,
                store::Position position, Background& publisher) {
  store::StateStore::Writing writing = states.begin(position, hidden.rows(), hidden.cols());
  const std::int64_t step = rows_per_piece(hidden.cols());
  std::vector<float> piece;
  for (std::int64_t first = 0; first < hidden.rows(); first += step) {
    const std::int64_t rows = std::min(step, hidden.rows() - first);
    piece.resize(static_cast<std::size_t>(rows * hidden.cols()));
    backend.copy_out(hidden.row_range(first, rows), std::span<float>(piece));
    writing.append(piece);
  }
  writing.close();
  publisher.post([writing]() mutable { writing.publish(); });
}

void load_state(backend::Backend& backend, const store::StateStore& states, store::Position position,
                backend::View hidden) {
  states.read(position, hidden.rows(), hidden.cols(), rows_per_piece(hidden.cols()),
              [&](std::int64_t first, std::span<const float> values) {
                backend.copy_in(values, hidden.row_range(
                                            first, static_cast<std::int64_t>(values.size()) / hidden.cols()));
              });
}

}  // namespace fedspallm::app
