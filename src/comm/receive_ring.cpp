// SPDX-License-Identifier: Apache-2.0
#include "receive_ring.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/rounding.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::comm {

namespace {
constexpr std::int64_t kAlignment = 64;  // a cache line, so that two pieces never share one

std::shared_ptr<std::byte> host_memory(std::int64_t bytes) {
  return {new std::byte[static_cast<std::size_t>(bytes)], std::default_delete<std::byte[]>()};
}

}  // namespace

ReceiveRing::ReceiveRing(std::int64_t capacity, Allocate allocate)
    : capacity_(capacity),
      allocate_(allocate ? std::move(allocate) : host_memory),
      memory_(allocate_(capacity)) {}

std::optional<std::int64_t> ReceiveRing::place(std::int64_t bytes) const {
  if (entries_.empty()) return bytes <= capacity_ ? std::optional<std::int64_t>(0) : std::nullopt;
  const std::int64_t oldest = entries_.front().begin;
  const std::int64_t end = round_up(entries_.back().end, kAlignment);
  const bool wrapped = entries_.back().begin < oldest;
  if (wrapped) return end + bytes <= oldest ? std::optional(end) : std::nullopt;
  if (end + bytes <= capacity_) return end;
  return bytes <= oldest ? std::optional<std::int64_t>(0) : std::nullopt;
}

std::optional<ReceiveRing::Piece> ReceiveRing::take(std::int64_t bytes) {
  require(bytes >= 1, "ReceiveRing::take: bytes >= 1");
  if (entries_.empty() && bytes > capacity_) {
    memory_.reset();  // first, so that old and new never exist together
    memory_ = allocate_(bytes);
    capacity_ = bytes;
  }
  const auto begin = place(bytes);
  if (!begin) return std::nullopt;
  entries_.push_back({next_id_, *begin, *begin + bytes, false});
  return Piece{next_id_++, {memory_.get() + *begin, static_cast<std::size_t>(bytes)}};
}

void ReceiveRing::give_back(std::uint64_t id) {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.id == id; });
  require(found != entries_.end() && !found->free, "ReceiveRing::give_back: the piece is in use");
  found->free = true;
  while (!entries_.empty() && entries_.front().free) entries_.pop_front();
}

}  // namespace fedspallm::comm
