// SPDX-License-Identifier: Apache-2.0
#include "checkpoint.hpp"

#include "fedspallm/base/error.hpp"

#include "block_merger.hpp"
#include "plan.hpp"
#include <algorithm>
#include <functional>
#include <optional>

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

/// Whether the client's own file has this block. Missing and damaged are the same here: it is made again.
bool has_own(const ClientFiles& files, store::Position position) {
  if (files.own == nullptr) return true;
  try {
    (void)files.own->read_block(position.round, position.block, store::Votes::skip);
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// The first position whose update the client has still to make: it is not merged, or its own file lacks it.
store::Position needed_from(const ClientFiles& files, const RunShape& shape,
                            const std::vector<DroppedClient>& dropped, store::Position merged,
                            const Watch& watch) {
  store::Position needed = end_of(shape);
  for_each_position(shape, [&](store::Position position) {
    if (!prunes(shape, dropped, files.client, position)) return true;
    watch.beat();
    if (position < merged && has_own(files, position)) return true;
    needed = position;
    return false;
  });
  return needed;
}

/// The newest position with a sound state that is early enough; a round's begin needs none.
store::Position start_of(const ClientFiles& files, const RunShape& shape,
                         const std::vector<DroppedClient>& dropped, store::Position merged,
                         const Watch& watch) {
  const store::Position needed = needed_from(files, shape, dropped, merged, watch);
  std::vector<store::Position> places = files.states->positions();
  for (std::uint32_t round = 1; round <= shape.rounds + 1; ++round) places.push_back({round, 0});
  std::sort(places.begin(), places.end(), std::greater<>());
  for (const store::Position place : places) {
    if (place > needed || place.block >= shape.blocks) continue;
    watch.beat();
    if (place.block == 0 || files.states->verify(place, files.rows, files.columns)) return place;
    watch.say(fmt::format("the saved state before block {} of round {} is damaged (client {}); falling back",
                          place.block, place.round, files.client));
  }
  return {1, 0};
}

/// The first position whose merged block is not there, as far as names and sizes tell.
store::Position there_until(const store::BlockFiles& merged, const RunShape& shape,
                            const std::vector<DroppedClient>& dropped, const Watch& watch) {
  store::Position until = end_of(shape);
  for_each_position(shape, [&](store::Position position) {
    bool covered = false;
    for (std::uint32_t client = 0; client < shape.drawn[position.round - 1].size(); ++client)
      covered |= prunes(shape, dropped, client, position);
    if (!covered || merged.has_file(position.round, position.block)) return true;
    if (merged.has_block(position.round, position.block))
      watch.say(
          fmt::format("{}: missing, or not of the size that its manifest tells; falling back to the "
                      "block before it",
                      merged.block_file(position.round, position.block).string()));
    until = position;
    return false;
  });
  return until;
}

std::optional<store::Position> newest_before(const store::BlockFiles& merged, std::uint32_t block,
                                             store::Position bound) {
  std::optional<store::Position> newest;
  for (const auto& [round, index] : merged.blocks())  // ascending
    if (const store::Position position{round, index}; index == block && position < bound) newest = position;
  return newest;
}

/// Reads each block's newest record before `until` and before its round, those that are not in `sound` yet.
/// @return the position of one that is damaged
std::optional<store::Position> first_damaged(const store::BlockFiles& merged, const RunShape& shape,
                                             store::Position until,
                                             std::map<store::Position, std::int64_t>& sound,
                                             const Watch& watch) {
  for (std::uint32_t block = 0; block < shape.blocks; ++block)
    for (const store::Position bound : {until, store::Position{until.round, 0}}) {
      const auto position = newest_before(merged, block, bound);
      if (!position || sound.contains(*position)) continue;
      watch.beat();
      try {
        const store::BlockRecord record =
            merged.read_block(position->round, position->block, store::Votes::skip);
        sound[*position] = dropped_weights(record);
        watch.see(record);
      } catch (const DataError& error) {
        watch.say(fmt::format("{}; falling back to the block before it", error.what()));
        return position;
      }
    }
  return std::nullopt;
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

Merged merged_until(const store::BlockFiles& merged, const RunShape& shape,
                    const std::vector<DroppedClient>& dropped, const Watch& watch) {
  Merged result{.until = there_until(merged, shape, dropped, watch)};
  std::map<store::Position, std::int64_t> sound;
  while (const auto bad = first_damaged(merged, shape, result.until, sound, watch)) result.until = *bad;
  for (std::uint32_t block = 0; block < shape.blocks; ++block)
    if (const auto newest = newest_before(merged, block, result.until))
      result.dropped[block] = sound[*newest];
  return result;
}

Start find_start(comm::Communicator& communicator, const RunShape& shape, store::Position merged,
                 const std::vector<ClientFiles>& mine, const std::vector<DroppedClient>& dropped,
                 const Watch& watch) {
  Start start;
  start.merging = broadcast(communicator, merged);
  store::Position first = start.merging;
  communicator.together([&] {
    for (const ClientFiles& files : mine) {
      start.clients.push_back(start_of(files, shape, dropped, start.merging, watch));
      first = std::min(first, start.clients.back());
    }
  });
  const std::int64_t earliest = -communicator.maximum(-blocks_before(shape, first));  // a minimum
  start.first = {static_cast<std::uint32_t>(earliest / shape.blocks + 1),
                 static_cast<std::uint32_t>(earliest % shape.blocks)};
  return start;
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
