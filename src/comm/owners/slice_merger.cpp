// SPDX-License-Identifier: Apache-2.0
#include "slice_merger.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace fedspallm::comm {

namespace {

/// Largest slices that may be on their way or merged: one being finished, one being added up, one asked for,
/// so that links stay busy while finishing waits for sums. Of smaller ones as many more.
constexpr std::int64_t kMergesAtOnce = 3;
constexpr std::uint32_t kDiagonalStep = 0;  // of a unit's sums; those of finishing follow

/// What ends waiting for a sum of an exchange that ends itself; never leaves this file.
struct Aborted {};

std::int64_t ring_bytes(const RankContext& context) {
  std::int64_t largest = 0;
  for (const PlannedUnit& unit : context.plan.plan().units) {
    const std::int64_t size =
        slice_of(unit, context.options, context.link.rank(), context.link.size()).size();
    const std::int64_t whole = std::max<std::int64_t>(1, unit.rows * unit.cols);
    const std::int64_t kept =
        unit.expected_kept < 0
            ? size
            : static_cast<std::int64_t>(static_cast<double>(unit.expected_kept) / static_cast<double>(whole) *
                                        static_cast<double>(size)) +
                  1;
    largest = std::max(largest, wire::encoded_bytes(size, 1, kept, unit.dtype, false));
  }
  if (context.link.size() == 1) return 0;
  constexpr std::int64_t alignment = 64;  // each piece begins at a cache line
  return kBatchesAtOnce * (std::max(largest, batch_bytes(context.options)) + alignment);
}

wire::PackedMatrix decode_slice(const RankContext& context, std::size_t index, std::int64_t size, int rank,
                                std::uint32_t client, std::span<const std::byte> bytes) {
  const PlannedUnit& unit = context.plan.unit(index);
  try {
    return wire::decode(bytes, {.unit = unit.id,
                                .rows = size,
                                .cols = 1,
                                .dtype = unit.dtype,
                                .with_diagonal = false,
                                .client = client})
        .matrix;
  } catch (const DataError& error) {
    throw DataError(fmt::format("refused what rank {} sent as a slice of client {}'s update of {}: {}", rank,
                                client, describe(unit), error.what()));
  }
}

}  // namespace

SliceMerger::SliceMerger(const RankContext& context, Worker& adder, Worker& finisher, SliceSender& sender,
                         OnFinished on_finished)
    : context_(context),
      adder_(adder),
      finisher_(finisher),
      sender_(sender),
      on_finished_(std::move(on_finished)),
      sums_(context),
      ring_(ring_bytes(context)) {
  context_.merge_memory.add(ring_.capacity());
  for (const PlannedUnit& unit : context_.plan.plan().units)
    room_ = std::max(room_, kMergesAtOnce * own_size(unit));
}

std::int64_t SliceMerger::own_size(const PlannedUnit& unit) const {
  return slice_of(unit, context_.options, context_.link.rank(), context_.link.size()).size();
}

void SliceMerger::begin(const SliceMessage& message) {
  if (stopped_) return;
  const auto index = static_cast<std::size_t>(message.unit);
  const PlannedUnit& planned = context_.plan.unit(index);
  const int rank = context_.link.rank();
  Unit unit;
  Work& work = unit.work;
  work.index = index;
  work.scale = {message.q};
  work.size = own_size(planned);
  work.state = std::make_shared<State>();
  work.state->shape.rows = work.size;
  work.state->shape.cols = 1;
  for (const std::uint32_t client : planned.clients) {
    if (std::binary_search(message.absent.begin(), message.absent.end(), client)) continue;
    ++work.clients;
    const bool own = context_.plan.rank_of(client) == rank;
    if (own || work.size > 0) ++unit.needed;
    if (!own && work.size > 0) unit.remote[context_.plan.rank_of(client)].push_back(client);
  }
  if (planned.with_diagonal && planned.diagonal_unit == index) sum_diagonals(index, {message.diagonal_q});
  units_.push_back(std::move(unit));
}

/// The oldest units whose merge states fit together; one at least.
std::size_t SliceMerger::units_with_room() const {
  std::int64_t left = room_;
  std::size_t count = 0;
  for (const Unit& unit : units_) {
    left -= unit.work.size;
    if (left < 0) break;
    ++count;
  }
  return count;
}

void SliceMerger::start(Unit& unit) {
  unit.started = true;
  if (const auto later = sender_.later(unit.work.index))
    add_own_later(unit.work, later, 0);
  else if (const auto own = sender_.updates(unit.work.index); !own.empty())
    add_own(unit.work, own);
}

/// Each rank adds up its own clients' diagonals, all ranks the rest: no diagonal travels as such.
void SliceMerger::sum_diagonals(std::size_t index, aggregate::FixedPoint scale) {
  const auto cols = static_cast<std::size_t>(context_.plan.unit(index).cols);
  adder_.post([this, own = sender_.updates(index), later = sender_.later(index), cols, index, scale] {
    if (aborted_) return;
    std::vector<std::int64_t> sums(cols, 0);
    const auto add = [&](const std::vector<float>& diagonal) {
      for (std::size_t column = 0; column < cols; ++column)
        sums[column] += aggregate::quantize(diagonal[column], scale);
    };
    for (const auto& update : own) add(update->diagonal);
    for (std::size_t i = 0; later != nullptr && i < later->later.size(); ++i)
      add(make_diagonal(context_, index, *later, i));
    context_.desk.post([this, index, values = std::move(sums)] {
      sums_.add(index, kDiagonalStep, values, [this, index](std::vector<std::int64_t>&& whole) {
        diagonals_[index] = std::make_shared<const std::vector<std::int64_t>>(std::move(whole));
      });
    });
  });
}

/// On the adder.
CountedMerge& SliceMerger::merge_of(const Work& work) const {
  State& state = *work.state;
  if (state.merge == nullptr)
    state.merge = std::make_unique<CountedMerge>(state.shape, work.scale, aggregate::FixedPoint{},
                                                 context_.merge_memory);
  return *state.merge;
}

void SliceMerger::add_own(const Work& work, const std::vector<std::shared_ptr<const CutUpdate>>& own) {
  adder_.post([this, work, own] {
    if (aborted_) return;
    const ScopedTime time(context_.merging_nanoseconds);
    std::vector<const wire::PackedMatrix*> matrices;
    for (const auto& update : own) matrices.push_back(&update->own);
    if (work.size > 0) merge_of(work).merge().add(matrices);
    context_.desk.post([this, index = work.index, count = own.size()] {
      sender_.own_added(index);
      added(index, count);
    });
  });
}

/// A few updates' own slices, from position `begin` on; then, behind what else the adder has got to do, more.
void SliceMerger::add_own_later(const Work& work, const std::shared_ptr<const OwnUpdates>& later,
                                std::size_t begin) {
  adder_.post([this, work, later, begin] {
    if (aborted_) return;
    const ScopedTime time(context_.merging_nanoseconds);
    const std::size_t all = later->later.size();
    const std::size_t end = work.size == 0 ? all : std::min(begin + kMadeAtOnce, all);
    std::vector<wire::PackedMatrix> made;
    for (std::size_t i = begin; work.size > 0 && i < end; ++i) {
      const ScopedTime not_merging(context_.merging_nanoseconds, -1);
      made.push_back(make_slice(context_, work.index, *later, i, context_.link.rank()));
    }
    std::vector<const wire::PackedMatrix*> matrices;
    for (const wire::PackedMatrix& matrix : made) matrices.push_back(&matrix);
    if (!made.empty()) merge_of(work).merge().add(matrices);
    context_.desk.post([this, work, later, end, all] {
      if (end < all) return add_own_later(work, later, end);
      sender_.own_added(work.index);
      added(work.index, all);
    });
  });
}

void SliceMerger::added(std::size_t index, std::size_t updates) {
  for (Unit& unit : units_)
    if (unit.work.index == index) unit.added += updates;
}

void SliceMerger::on(int rank, OfferMessage&& message) {
  check<PeerError>(message.unit < context_.plan.size(), "a rank offered a unit that is not of this plan");
  offers_[static_cast<std::size_t>(message.unit)][rank] = std::move(message.kept);
}

void SliceMerger::advance() {
  if (stopped_) return;
  const std::size_t with_room = units_with_room();
  for (std::size_t i = 0; i < with_room; ++i) {
    if (!units_[i].started) start(units_[i]);
    ask(units_[i]);
  }
  if (units_.empty()) return;
  Unit& first = units_.front();
  if (first.started && !first.finishing && first.added == first.needed && diagonal_known(first.work.index))
    finish(first);
}

/// Beginning with the next rank, so that not all owners ask the same one.
void SliceMerger::ask(Unit& unit) {
  const auto offers = offers_.find(unit.work.index);
  if (offers == offers_.end()) return;
  auto& open = offers->second;
  while (!open.empty()) {
    auto next = open.upper_bound(context_.link.rank());
    if (next == open.end()) next = open.begin();
    const auto& [rank, kept] = *next;
    if (unit.remote.contains(rank)) {
      check<PeerError>(kept.size() == unit.remote[rank].size(),
                       "a rank offered slices of other clients than take part");
      while (unit.asked[rank] < kept.size())
        if (!ask_rank(unit, rank, kept)) return;
    }
    open.erase(next);  // looked at in every step else, of which there are as many as messages
  }
}

/// One batch of a rank's slices. False while there is no room for it.
bool SliceMerger::ask_rank(Unit& unit, int rank, const std::vector<std::int64_t>& kept) {
  const Work& work = unit.work;
  const std::size_t first = unit.asked[rank];
  std::vector<std::size_t> sizes;
  std::size_t total = 0;
  for (std::size_t i = first; i < kept.size(); ++i) {
    check<PeerError>(kept[i] >= 0 && kept[i] <= work.size, "a rank offered more weights than a slice has");
    const auto size = static_cast<std::size_t>(
        wire::encoded_bytes(work.size, 1, kept[i], context_.plan.unit(work.index).dtype, false));
    if (!sizes.empty() && std::cmp_greater(total + size, batch_bytes(context_.options))) break;
    sizes.push_back(size);
    total += size;
  }
  const std::int64_t capacity = ring_.capacity();
  const auto piece = ring_.take(static_cast<std::int64_t>(total));
  context_.merge_memory.add(ring_.capacity() - capacity);
  if (!piece) return false;
  const auto begin = unit.remote[rank].begin() + static_cast<std::ptrdiff_t>(first);
  const std::vector<std::uint32_t> clients(begin, begin + std::ssize(sizes));
  std::vector<std::span<const std::byte>> parts;
  std::size_t place = 0;
  for (const std::size_t size : sizes) {
    parts.push_back(piece->bytes.subspan(place, size));
    place += size;
  }
  const auto left = std::make_shared<std::size_t>(sizes.size());
  const Link::Done done = [this, left, work, rank, clients, parts, id = piece->id] {
    if (--*left == 0) add_batch(work, rank, clients, parts, id);
  };
  place = 0;
  for (const std::size_t size : sizes) {
    context_.link.receive(rank, Tag::slice, piece->bytes.subspan(place, size), done);
    place += size;
  }
  unit.asked[rank] += sizes.size();
  context_.link.post(rank, AskMessage{work.index, static_cast<std::uint32_t>(first),
                                      static_cast<std::uint32_t>(sizes.size())});
  return true;
}

/// On the adder. @throws DataError when a slice is not what was offered and announced
std::vector<wire::PackedMatrix> SliceMerger::decode_batch(
    const Work& work, int rank, const std::vector<std::uint32_t>& clients,
    const std::vector<std::span<const std::byte>>& parts) const {
  // As much as FixedPoint::covering() left room for: sums must not overflow, whatever was announced.
  const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(work.clients - 1)));
  const double limit = std::ldexp(1.0, work.scale.q + 56 - bits);
  std::vector<wire::PackedMatrix> matrices;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    matrices.push_back(decode_slice(context_, work.index, work.size, rank, clients[i], parts[i]));
    const float largest = wire::largest_magnitude(matrices.back());
    if (largest > limit)
      throw DataError(
          fmt::format("refused what rank {} sent as a slice of client {}'s update of {}: it "
                      "holds values up to {} where at most {} was announced",
                      rank, clients[i], describe(context_.plan.unit(work.index)), largest, limit));
  }
  return matrices;
}

void SliceMerger::add_batch(const Work& work, int rank, std::vector<std::uint32_t> clients,
                            std::vector<std::span<const std::byte>> parts, std::uint64_t piece) {
  adder_.post([this, work, rank, clients = std::move(clients), parts = std::move(parts), piece] {
    struct GiveBack {  // also when the addition throws
      SliceMerger& self;
      std::uint64_t id;
      ~GiveBack() {
        self.context_.desk.post([&ring = self.ring_, id = id] { ring.give_back(id); });
      }
    } const give_back{*this, piece};
    if (aborted_) return;
    const ScopedTime time(context_.merging_nanoseconds);
    const std::vector<wire::PackedMatrix> matrices = decode_batch(work, rank, clients, parts);
    std::vector<const wire::PackedMatrix*> pointers;
    for (const wire::PackedMatrix& matrix : matrices) pointers.push_back(&matrix);
    merge_of(work).merge().add(pointers);
    context_.desk.post([this, index = work.index, count = parts.size()] { added(index, count); });
  });
}

bool SliceMerger::diagonal_known(std::size_t index) const {
  const std::size_t carrier = context_.plan.unit(index).diagonal_unit;
  return !context_.plan.unit(carrier).with_diagonal || diagonals_.contains(carrier);
}

/// On the finisher: leaves the sum to the communication thread and waits for it.
void SliceMerger::sum_and_wait(std::size_t index, std::uint32_t step, std::span<std::int64_t> values) {
  const auto sums = std::make_shared<std::vector<std::int64_t>>();
  const auto ready = std::make_shared<bool>(false);
  context_.desk.post(
      [this, index, step, sums, ready, own = std::vector<std::int64_t>(values.begin(), values.end())] {
        sums_.add(index, step, own, [this, sums, ready](std::vector<std::int64_t>&& whole) {
          const std::lock_guard lock(mutex_);
          *sums = std::move(whole);
          *ready = true;
          summed_.notify_all();
        });
      });
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  summed_.wait(lock, [&] { return *ready || aborted_; });
  const auto waited = std::chrono::steady_clock::now() - start;  // is no merging
  context_.merging_nanoseconds -= std::chrono::duration_cast<std::chrono::nanoseconds>(waited).count();
  if (!*ready) throw Aborted();
  std::copy(sums->begin(), sums->end(), values.begin());
}

void SliceMerger::finish(Unit& unit) {
  unit.finishing = true;
  const std::size_t index = unit.work.index;
  offers_.erase(index);
  const std::size_t carrier = context_.plan.unit(index).diagonal_unit;
  const auto known = diagonals_.find(carrier);
  const auto diagonal = known != diagonals_.end() ? known->second : nullptr;
  if (context_.plan.last_of_group(index) == index) diagonals_.erase(carrier);
  finisher_.post([this, work = unit.work, diagonal] {
    if (aborted_) return;
    try {
      const auto slice = finished(work, diagonal ? std::span(*diagonal) : std::span<const std::int64_t>());
      context_.desk.post([this, index = work.index, slice] {
        if (stopped_) return;
        units_.pop_front();
        on_finished_(index, slice);
      });
    } catch (const Aborted&) {  // the exchange ends for another reason
    }
  });
}

/// On the finisher.
std::shared_ptr<FinishedSlice> SliceMerger::finished(const Work& work,
                                                     std::span<const std::int64_t> diagonal) {
  const ScopedTime time(context_.merging_nanoseconds);
  const PlannedUnit& planned = context_.plan.unit(work.index);
  const int rank = context_.link.rank(), ranks = context_.link.size();
  std::uint32_t step = kDiagonalStep;
  const auto result = std::make_shared<FinishedSlice>();
  result->matrix = aggregate::finish_slice(
      merge_of(work).merge(), {planned.rows, planned.cols, rank, ranks}, work.clients, context_.options.rules,
      planned.dtype, diagonal,
      [&](std::span<std::int64_t> values) { sum_and_wait(work.index, ++step, values); });
  work.state->merge.reset();
  if (writer_of(planned, context_.options, ranks) != rank && work.size > 0) {
    result->encoded = encode_result(planned, result->matrix, work.clients);
    result->matrix = {};
  }
  return result;
}

void SliceMerger::stop() {
  stopped_ = true;
  units_.clear();
  offers_.clear();
  sums_.stop();
  abort();
}

void SliceMerger::abort() {
  const std::lock_guard lock(mutex_);
  aborted_ = true;
  summed_.notify_all();
}

}  // namespace fedspallm::comm
