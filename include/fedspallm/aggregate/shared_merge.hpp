// SPDX-License-Identifier: Apache-2.0
// Purpose: one merge state to which several threads add at once, of one process or of several that share
// memory. The tiles are cut into stripes; whoever adds takes one free stripe after the other, each beginning
// at another one, and comes back to those that were busy. Sums are integers, so the order changes no bit.
// Non-goals: sharing the memory, telling when all have added (comm).
#pragma once

#include "fedspallm/aggregate/merge.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace fedspallm::aggregate {

class SharedMerge {
 public:
  /// Tiles in a stripe: 16,384 weights, 192 KiB, so that a stripe being added to stays in the second-level
  /// cache.
  static constexpr std::int64_t kStripe = 256;
  static constexpr std::size_t kAlignment = 64;
  /// Who adds: one of so many, for where it begins.
  struct Turn {
    int adder = 0;
    int adders = 1;
  };

  /// Of the memory that a matrix needs: a word for each stripe, tiles, cols sums of diag(H).
  /// @pre rows, cols >= 0
  [[nodiscard]] static std::int64_t bytes(std::int64_t rows, std::int64_t cols);
  /// A view: it owns nothing, and there may be several of the same memory.
  /// @pre bytes(rows, cols) bytes at least, aligned to kAlignment
  SharedMerge(std::span<std::byte> memory, std::int64_t rows, std::int64_t cols, FixedPoint scale,
              FixedPoint diagonal_scale);

  /// All sums are 0. One thread calls it, before any other has begun to add.
  void clear();
  /// Adds some clients' updates (none: a state to which nobody adds still has to become 0). From any thread.
  /// @param go_on  asked while every stripe that is left is busy; false ends the waiting
  /// @returns false when it ended so: the state is then good for nothing
  /// @pre as for PartialMerge::add and add_diagonal; 0 <= adder < adders
  [[nodiscard]] bool add(std::span<const wire::MatrixUpdate> updates, Turn turn,
                         const std::function<bool()>& go_on);
  /// The sums, in the same memory. Good once everybody has added.
  [[nodiscard]] PartialMerge sums() const;

 private:
  bool try_stripe(std::int64_t stripe, const std::function<void(bool fresh)>& work);

  std::int64_t rows_, cols_;
  FixedPoint scale_, diagonal_scale_;
  std::span<std::uint32_t> words_;  // of the stripes, and one of the sums of diag(H)
  std::span<Tile> tiles_;
  std::span<std::int64_t> diagonal_;
};

}  // namespace fedspallm::aggregate
