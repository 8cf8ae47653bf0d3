// SPDX-License-Identifier: Apache-2.0
#include "chain.hpp"

#include "fedspallm/base/rounding.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::comm {

namespace {

constexpr std::size_t kTileBytes = sizeof(aggregate::Tile);
/// More than can keep a weight: what is passed on where merging failed. The root may hear of the failure
/// later than it has the sums, which no callback may see.
constexpr std::uint32_t kFailed = 1U << 31;
constexpr std::uint32_t kMostClients = 1U << 24;

std::size_t pieces(std::size_t bytes, std::size_t chunk) {
  return (bytes + chunk - 1) / chunk;
}

std::size_t tile_bytes(const PlannedUnit& unit) {
  return static_cast<std::size_t>(divide_up(unit.rows * unit.cols, aggregate::kTile)) * kTileBytes;
}

std::size_t diagonal_bytes(const PlannedUnit& unit) {
  return unit.with_diagonal ? static_cast<std::size_t>(unit.cols) * sizeof(std::int64_t) : 0;
}

}  // namespace

Chain::Chain(const RankContext& context, Worker& worker, OnReduced on_reduced)
    : context_(context),
      worker_(worker),
      on_reduced_(std::move(on_reduced)),
      chunk_bytes_(
          std::max<std::size_t>(1, static_cast<std::size_t>(context.options.chunk_bytes) / kTileBytes) *
          kTileBytes) {}

/// Before the first chain that has a neighbour here.
void Chain::make_buffers() {
  if (reduction_ != nullptr) return;
  reduction_ = std::make_unique<TileReduction>();
  buffers_.assign(kChunksAtOnce, std::vector<std::byte>(chunk_bytes_));
  arrived_.assign(kChunksAtOnce, false);
  failed_.assign(chunk_bytes_, std::byte{0});
  reinterpret_cast<aggregate::Tile*>(failed_.data())->kept[0] = kFailed;
  context_.merge_memory.add(static_cast<std::int64_t>(kChunksAtOnce * chunk_bytes_));
}

void Chain::start(const ScaleMessage& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  check<PeerError>(index < context_.plan.size() && message.upstream < context_.link.size() &&
                       message.downstream < context_.link.size(),
                   "the root started a chain that is not of this plan");
  Unit unit{.index = index, .upstream = message.upstream, .downstream = message.downstream, .merge = nullptr};
  unit.tile_chunks = pieces(tile_bytes(context_.plan.unit(index)), chunk_bytes_);
  unit.chunks = unit.tile_chunks + pieces(diagonal_bytes(context_.plan.unit(index)), chunk_bytes_);
  units_.push_back(unit);
  if (unit.upstream >= 0 || unit.downstream >= 0) make_buffers();
}

void Chain::merged(std::size_t index, const std::shared_ptr<CountedMerge>& merge) {
  for (Unit& waiting : units_) {
    if (waiting.index != index) continue;
    waiting.merge = merge;
    waiting.merged = true;
  }
}

void Chain::start(const ScaleMessage& message, OwnUpdates own) {
  start(message);
  const auto shared_own = std::make_shared<OwnUpdates>(std::move(own));
  worker_.post([this, message, shared_own] {
    struct Tell {  // also when merging throws: the chain must go on
      Chain& self;
      std::size_t index;
      std::shared_ptr<CountedMerge> merge = nullptr;
      ~Tell() {
        self.context_.desk.post([&chain = self, i = index, sums = merge] { chain.merged(i, sums); });
      }
    } tell{*this, static_cast<std::size_t>(message.unit)};
    tell.merge = merge_own(message, *shared_own);
  });
}

/// On the worker thread.
std::shared_ptr<CountedMerge> Chain::merge_own(const ScaleMessage& message, OwnUpdates& own) const {
  const ScopedTime time(context_.merging_nanoseconds);
  const auto index = static_cast<std::size_t>(message.unit);
  const auto merge =
      std::make_shared<CountedMerge>(context_.plan.unit(index), aggregate::FixedPoint{message.q},
                                     aggregate::FixedPoint{message.diagonal_q}, context_.merge_memory);
  const std::size_t updates = own.size();
  if (updates == 0) return merge;
  add_in_passes(context_, index, own, [&](const auto& some) {
    merge->add(some);
    return true;
  });
  context_.gate.taken(context_.plan.block_of(index), updates);
  return merge;
}

std::size_t Chain::chunk_size(const Unit& unit, std::size_t number) const {
  const bool tiles = number < unit.tile_chunks;
  const std::size_t whole =
      tiles ? tile_bytes(context_.plan.unit(unit.index)) : diagonal_bytes(context_.plan.unit(unit.index));
  const std::size_t begin = (tiles ? number : number - unit.tile_chunks) * chunk_bytes_;
  return std::min(chunk_bytes_, whole - begin);
}

/// This rank's sums: first all tiles, then the diagonal.
std::span<std::byte> Chain::chunk(const Unit& unit, std::size_t number) {
  const std::size_t size = chunk_size(unit, number);
  if (unit.merge == nullptr) return std::span(failed_).first(size);
  aggregate::PartialMerge& merge = unit.merge->merge();
  if (number < unit.tile_chunks)
    return std::as_writable_bytes(merge.tiles()).subspan(number * chunk_bytes_, size);
  return std::as_writable_bytes(merge.diagonal_sums())
      .subspan((number - unit.tile_chunks) * chunk_bytes_, size);
}

void Chain::post_receives(Unit& unit) {
  for (; unit.posted < std::min(unit.chunks, unit.added + kChunksAtOnce); ++unit.posted) {
    const std::size_t buffer = unit.posted % kChunksAtOnce;
    arrived_[buffer] = false;
    context_.link.receive(unit.upstream, Tag::chain,
                          std::span(buffers_[buffer]).first(chunk_size(unit, unit.posted)),
                          [this, buffer] { arrived_[buffer] = true; });
  }
}

void Chain::add_chunk(const Unit& unit, std::size_t number) {
  if (unit.merge == nullptr) return;
  const std::span<std::byte> sums = chunk(unit, number);
  const std::span<std::byte> other = std::span(buffers_[number % kChunksAtOnce]).first(sums.size());
  if (number < unit.tile_chunks) {
    reduction_->add_tiles(other, sums);
  } else {
    TileReduction::add_integers(other, sums);
  }
}

bool Chain::failed_above(const Unit& unit) {
  if (unit.merge == nullptr || unit.upstream < 0) return false;
  const auto tiles = unit.merge->merge().tiles();
  return !tiles.empty() && tiles.front().kept[0] > kMostClients;
}

/// Adds and sends at most one chunk, so that messages are looked after in between. False when none could be.
bool Chain::pass_on(Unit& unit) {
  if (!unit.merged || unit.added == unit.chunks) return false;
  if (unit.upstream >= 0 && (unit.added == unit.posted || !arrived_[unit.added % kChunksAtOnce]))
    return false;
  if (unit.downstream >= 0 && sending_ == kChunksAtOnce) return false;
  if (unit.upstream >= 0) add_chunk(unit, unit.added);
  if (unit.downstream >= 0) {
    ++sending_;
    context_.link.send(unit.downstream, Tag::chain, chunk(unit, unit.added),
                       [this, merge = unit.merge] { --sending_; });
  }
  ++unit.added;
  return true;
}

bool Chain::advance() {
  if (units_.empty()) return false;
  Unit& unit = units_.front();
  if (unit.upstream >= 0) post_receives(unit);
  bool progressed = pass_on(unit);
  const bool alone = unit.upstream < 0 && unit.downstream < 0;
  if (unit.merged && (alone || unit.added == unit.chunks)) {
    if (unit.downstream < 0) on_reduced_(unit.index, failed_above(unit) ? nullptr : unit.merge);
    units_.pop_front();
    progressed = true;
  }
  return progressed;
}

}  // namespace fedspallm::comm
