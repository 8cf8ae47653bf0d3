// SPDX-License-Identifier: Apache-2.0
// Purpose: the root's receive buffer of fixed size: pieces are taken in order and given back in any order. It
// bounds what the root holds of updates that are not merged yet, whatever the number of clients. Non-goal:
// thread safety.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>

namespace fedspallm::comm {

class ReceiveRing {
 public:
  struct Piece {
    std::uint64_t id = 0;
    std::span<std::byte> bytes;
  };

  using Allocate = std::function<std::shared_ptr<std::byte>(std::int64_t bytes)>;

  /// Memory is reserved now and touched when used. @param allocate  memory other than the host's
  explicit ReceiveRing(std::int64_t capacity, Allocate allocate = {});
  /// Nothing while there is no room. A piece larger than the whole ring gets room once the ring is empty (it
  /// then grows).
  /// @pre bytes >= 1
  [[nodiscard]] std::optional<Piece> take(std::int64_t bytes);
  /// @pre `id` is of a piece taken and not yet given back
  void give_back(std::uint64_t id);
  [[nodiscard]] std::int64_t capacity() const { return capacity_; }

 private:
  struct Entry {
    std::uint64_t id;
    std::int64_t begin, end;
    bool free;
  };
  [[nodiscard]] std::optional<std::int64_t> place(std::int64_t bytes) const;

  std::int64_t capacity_;
  Allocate allocate_;
  std::shared_ptr<std::byte> memory_;
  std::deque<Entry> entries_;  // oldest first
  std::uint64_t next_id_ = 0;
};

}  // namespace fedspallm::comm
