// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/shared_merge.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/rounding.hpp"

#include "packed_addition.hpp"
#include "units.hpp"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

namespace fedspallm::aggregate {

namespace {

// What a stripe's word says. Words of other processes are seen through std::atomic_ref, which is more than
// the standard promises and holds wherever it is free of locks: then the address does not matter.
constexpr std::uint32_t kFresh = 0;  // nobody has added: what lies in memory is no sum
constexpr std::uint32_t kBusy = 1;
constexpr std::uint32_t kHolds = 2;
static_assert(std::atomic_ref<std::uint32_t>::is_always_lock_free);

/// Between two rounds over stripes that are all busy. An addition to one takes some 0.1 ms.
constexpr std::chrono::microseconds kPause{20};

std::int64_t aligned(std::int64_t bytes) {
  return round_up(bytes, static_cast<std::int64_t>(SharedMerge::kAlignment));
}

std::int64_t stripes_of(std::int64_t rows, std::int64_t cols) {
  return units_of(wire::mask_words(rows * cols), SharedMerge::kStripe);
}

std::int64_t word_bytes(std::int64_t rows, std::int64_t cols) {
  return aligned((stripes_of(rows, cols) + 1) * std::int64_t{sizeof(std::uint32_t)});
}

std::int64_t tile_bytes(std::int64_t rows, std::int64_t cols) {
  return wire::mask_words(rows * cols) * std::int64_t{sizeof(Tile)};
}

template <class Value>
std::span<Value> part(std::span<std::byte> memory, std::int64_t begin, std::int64_t count) {
  return {reinterpret_cast<Value*>(memory.data() + begin), static_cast<std::size_t>(count)};
}

}  // namespace

std::int64_t SharedMerge::bytes(std::int64_t rows, std::int64_t cols) {
  require(rows >= 0 && cols >= 0, "SharedMerge: rows, cols >= 0");
  return word_bytes(rows, cols) + tile_bytes(rows, cols) + aligned(cols * std::int64_t{sizeof(std::int64_t)});
}

SharedMerge::SharedMerge(std::span<std::byte> memory, std::int64_t rows, std::int64_t cols, FixedPoint scale,
                         FixedPoint diagonal_scale)
    : rows_(rows), cols_(cols), scale_(scale), diagonal_scale_(diagonal_scale) {
  require(std::ssize(memory) >= bytes(rows, cols), "SharedMerge: memory for the whole state");
  require(reinterpret_cast<std::uintptr_t>(memory.data()) % kAlignment == 0, "SharedMerge: aligned memory");
  const std::int64_t tiles = word_bytes(rows, cols);
  words_ = part<std::uint32_t>(memory, 0, stripes_of(rows, cols) + 1);
  tiles_ = part<Tile>(memory, tiles, wire::mask_words(rows * cols));
  diagonal_ = part<std::int64_t>(memory, tiles + tile_bytes(rows, cols), cols);
}

void SharedMerge::clear() {
  for (std::uint32_t& word : words_) std::atomic_ref(word).store(kFresh, std::memory_order_release);
}

PartialMerge SharedMerge::sums() const {
  return {rows_, cols_, scale_, diagonal_scale_, tiles_, diagonal_};
}

/// Works on the stripe unless somebody else does; then false.
bool SharedMerge::try_stripe(std::int64_t stripe, const std::function<void(bool fresh)>& work) {
  std::atomic_ref word(words_[static_cast<std::size_t>(stripe)]);
  std::uint32_t seen = word.load(std::memory_order_relaxed);
  if (seen == kBusy || !word.compare_exchange_strong(seen, kBusy, std::memory_order_acquire)) return false;
  struct Release {  // also when the work throws, so that nobody waits for it
    std::atomic_ref<std::uint32_t> word;
    ~Release() { word.store(kHolds, std::memory_order_release); }
  } const release{word};
  work(seen == kFresh);
  return true;
}

bool SharedMerge::add(std::span<const wire::MatrixUpdate> updates, Turn turn,
                      const std::function<bool()>& go_on) {
  require(0 <= turn.adder && turn.adder < turn.adders, "SharedMerge::add: 0 <= adder < adders");
  std::vector<const wire::PackedMatrix*> matrices;
  for (const wire::MatrixUpdate& update : updates) matrices.push_back(&update.matrix);
  const PackedAddition addition(matrices, rows_, cols_, scale_, kStripe);
  const std::int64_t stripes = stripes_of(rows_, cols_);
  std::uint32_t largest = 0;
  const auto add_tiles_of = [&](std::int64_t stripe, bool fresh) {
    const std::int64_t first = stripe * kStripe;
    const auto count = static_cast<std::size_t>(std::min(kStripe, std::ssize(tiles_) - first));
    if (fresh) std::ranges::fill(tiles_.subspan(static_cast<std::size_t>(first), count), Tile{});
    largest = std::max(largest, addition.add(stripe, tiles_));
  };
  const auto add_diagonals = [&](bool fresh) {
    if (fresh) std::ranges::fill(diagonal_, 0);
    PartialMerge all = sums();
    for (const wire::MatrixUpdate& update : updates)
      if (!update.hessian_diagonal.empty()) all.add_diagonal(update.hessian_diagonal);
  };
  std::vector<std::int64_t> left(static_cast<std::size_t>(stripes + 1));
  std::iota(left.begin(), left.end(), 0);
  std::ranges::rotate(left, left.begin() + stripes * turn.adder / turn.adders);
  while (!left.empty()) {
    const auto done = std::erase_if(left, [&](std::int64_t stripe) {
      return try_stripe(stripe, [&](bool fresh) {
        if (stripe == stripes)
          add_diagonals(fresh);
        else
          add_tiles_of(stripe, fresh);
      });
    });
    if (done > 0) continue;
    if (!go_on()) return false;
    std::this_thread::sleep_for(kPause);
  }
  addition.check_largest(largest);
  return true;
}

}  // namespace fedspallm::aggregate
