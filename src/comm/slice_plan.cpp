// SPDX-License-Identifier: Apache-2.0
#include "slice_plan.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

namespace fedspallm::comm {

namespace {

std::int64_t vote_bytes(std::int64_t clients) {
  if (clients <= std::numeric_limits<std::uint8_t>::max()) return 1;
  return clients <= std::numeric_limits<std::uint16_t>::max() ? 2 : 4;
}

template <class Narrow>
void append_votes(const std::vector<std::uint32_t>& votes, std::vector<std::byte>& bytes) {
  const std::size_t begin = bytes.size();
  bytes.resize(begin + votes.size() * sizeof(Narrow));
  for (std::size_t i = 0; i < votes.size(); ++i) {
    const auto narrow = static_cast<Narrow>(votes[i]);
    std::memcpy(bytes.data() + begin + i * sizeof(Narrow), &narrow, sizeof(Narrow));
  }
}

template <class Narrow>
std::vector<std::uint32_t> read_votes(std::span<const std::byte> bytes) {
  std::vector<std::uint32_t> votes(bytes.size() / sizeof(Narrow));
  for (std::size_t i = 0; i < votes.size(); ++i) {
    Narrow narrow = 0;
    std::memcpy(&narrow, bytes.data() + i * sizeof(Narrow), sizeof(Narrow));
    votes[i] = narrow;
  }
  return votes;
}

}  // namespace

std::int64_t batch_bytes(const ExchangeOptions& options) {
  return options.chunk_bytes;
}

std::int64_t result_bytes(const PlannedUnit& unit, std::int64_t size, std::int64_t kept,
                          std::int64_t clients) {
  return wire::encoded_bytes(size, 1, kept, unit.dtype, false) + size * vote_bytes(clients);
}

std::vector<std::byte> encode_result(const PlannedUnit& unit, const aggregate::MergedMatrix& slice,
                                     std::int64_t clients) {
  wire::MatrixUpdate update;
  update.unit = unit.id;
  update.matrix = slice.matrix;
  std::vector<std::byte> bytes = wire::encode(update);
  bytes.reserve(
      static_cast<std::size_t>(result_bytes(unit, slice.matrix.size(), slice.matrix.kept, clients)));
  switch (vote_bytes(clients)) {
    case 1:
      append_votes<std::uint8_t>(slice.votes, bytes);
      break;
    case 2:
      append_votes<std::uint16_t>(slice.votes, bytes);
      break;
    default:
      append_votes<std::uint32_t>(slice.votes, bytes);
  }
  return bytes;
}

aggregate::MergedMatrix decode_result(std::span<const std::byte> bytes, const PlannedUnit& unit,
                                      std::int64_t size, std::int64_t clients,
                                      const aggregate::MergedMatrix& counts) {
  const std::int64_t width = vote_bytes(clients);
  check<DataError>(std::ssize(bytes) >= size * width, "a finished slice is shorter than its votes");
  const auto votes = bytes.last(static_cast<std::size_t>(size * width));
  aggregate::MergedMatrix slice = counts_of(counts);
  slice.matrix = wire::decode(bytes.first(bytes.size() - votes.size()),
                              {.unit = unit.id, .rows = size, .cols = 1, .dtype = unit.dtype})
                     .matrix;
  slice.votes = width == 1   ? read_votes<std::uint8_t>(votes)
                : width == 2 ? read_votes<std::uint16_t>(votes)
                             : read_votes<std::uint32_t>(votes);
  const auto most = slice.votes.empty() ? 0U : *std::max_element(slice.votes.begin(), slice.votes.end());
  check<DataError>(most <= clients, "a finished slice holds more votes than there are clients");
  return slice;
}

aggregate::MergedMatrix counts_of(const aggregate::MergedMatrix& slice) {
  aggregate::MergedMatrix counts;
  counts.matrix.dtype = slice.matrix.dtype;
  counts.histogram = slice.histogram;
  counts.common_zeros = slice.common_zeros;
  counts.expanded = slice.expanded;
  counts.target = slice.target;
  counts.above_target = slice.above_target;
  counts.kept_zeros = slice.kept_zeros;
  return counts;
}

}  // namespace fedspallm::comm
