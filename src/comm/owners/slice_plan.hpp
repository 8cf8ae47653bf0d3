// SPDX-License-Identifier: Apache-2.0
// Purpose: owners topology, what follows from plan and options alone: who owns which weights of a unit, who
// writes it, how a finished slice is put into bytes.
#pragma once

#include "fedspallm/comm/exchange.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fedspallm::comm {

/// The weights of the unit that `owner` has.
[[nodiscard]] inline aggregate::Slice slice_of(const PlannedUnit& unit, const ExchangeOptions& options,
                                               int owner, int owners) {
  return aggregate::slice_of(unit.rows, unit.cols, options.rules.group, owner, owners);
}

/// The rank whose callback gets the unit.
[[nodiscard]] inline int writer_of(const PlannedUnit& unit, const ExchangeOptions& options, int ranks) {
  return options.spread_writing ? static_cast<int>(unit.id.block % static_cast<std::uint32_t>(ranks)) : 0;
}

/// Receive buffer of an owner, in batches of slices: one being merged, two on their way.
constexpr std::int64_t kBatchesAtOnce = 3;
/// Slices of one rank's clients are asked for together up to so many bytes, or one by one. What an owner has
/// asked for lies in front of the messages that it waits for next, so it asks for no more than keeps a link
/// busy while an ask goes and data come: a quarter of chunk_bytes.
[[nodiscard]] std::int64_t batch_bytes(const ExchangeOptions& options);

/// A finished slice as it travels to the writer: matrix as an encoded update of size x 1, then votes in 1, 2
/// or 4 bytes each, whatever so many clients need, then its counts.
[[nodiscard]] std::int64_t result_bytes(const PlannedUnit& unit, std::int64_t size, std::int64_t kept,
                                        std::int64_t clients);
[[nodiscard]] std::vector<std::byte> encode_result(const PlannedUnit& unit,
                                                   const aggregate::MergedMatrix& slice,
                                                   std::int64_t clients);
/// @throws DataError when the bytes are not a slice of `size` weights of the unit
[[nodiscard]] aggregate::MergedMatrix decode_result(std::span<const std::byte> bytes, const PlannedUnit& unit,
                                                    std::int64_t size, std::int64_t clients);
/// The slice of an owner that has no weights of the unit. @param other  another owner's
[[nodiscard]] aggregate::MergedMatrix empty_slice(const aggregate::MergedMatrix& other);

}  // namespace fedspallm::comm
