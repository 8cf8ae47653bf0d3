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

/// What travels beside matrix and votes; the histogram of clients + 1 numbers follows.
struct Counts {
  std::int64_t target = 0, above_target = 0, expanded = 0, kept_zeros = 0;
};

std::int64_t counts_bytes(std::int64_t clients) {
  return std::int64_t{sizeof(Counts)} + (clients + 1) * std::int64_t{sizeof(std::int64_t)};
}

void append_counts(const aggregate::MergedMatrix& slice, std::vector<std::byte>& bytes) {
  const Counts counts{slice.target, slice.above_target ? 1 : 0, slice.expanded, slice.kept_zeros};
  const auto head = std::as_bytes(std::span(&counts, 1));
  const auto histogram = std::as_bytes(std::span(slice.histogram));
  bytes.insert(bytes.end(), head.begin(), head.end());
  bytes.insert(bytes.end(), histogram.begin(), histogram.end());
}

/// @throws DataError unless they can be those of a slice of `size` weights
void read_counts(std::span<const std::byte> bytes, std::int64_t size, aggregate::MergedMatrix& slice) {
  Counts counts;
  std::memcpy(&counts, bytes.data(), sizeof counts);
  slice.histogram.resize((bytes.size() - sizeof counts) / sizeof(std::int64_t));
  std::memcpy(slice.histogram.data(), bytes.data() + sizeof counts, bytes.size() - sizeof counts);
  std::int64_t weights = 0;
  for (const std::int64_t bin : slice.histogram) {
    check<DataError>(bin >= 0 && bin <= size, "a finished slice counts votes of more weights than it has");
    weights += bin;
  }
  const auto possible = [&](std::int64_t count) { return count >= 0 && count <= size; };
  check<DataError>(weights == size && counts.target >= -1 && (counts.above_target | 1) == 1 &&
                       possible(counts.expanded) && possible(counts.kept_zeros),
                   "a finished slice's counts are not those of its weights");
  slice.target = counts.target;
  slice.above_target = counts.above_target == 1;
  slice.expanded = counts.expanded;
  slice.kept_zeros = counts.kept_zeros;
  slice.common_zeros = slice.histogram.back();
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
  return std::max<std::int64_t>(1, options.chunk_bytes / 4);
}

std::int64_t result_bytes(const PlannedUnit& unit, std::int64_t size, std::int64_t kept,
                          std::int64_t clients) {
  return wire::encoded_bytes(size, 1, kept, unit.dtype, false) + size * vote_bytes(clients) +
         counts_bytes(clients);
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
  append_counts(slice, bytes);
  return bytes;
}

aggregate::MergedMatrix decode_result(std::span<const std::byte> bytes, const PlannedUnit& unit,
                                      std::int64_t size, std::int64_t clients) {
  const std::int64_t width = vote_bytes(clients), tail = size * width + counts_bytes(clients);
  check<DataError>(std::ssize(bytes) >= tail, "a finished slice is shorter than its votes and counts");
  const auto votes = bytes.last(static_cast<std::size_t>(tail)).first(static_cast<std::size_t>(size * width));
  aggregate::MergedMatrix slice;
  read_counts(bytes.last(static_cast<std::size_t>(counts_bytes(clients))), size, slice);
  slice.matrix = wire::decode(bytes.first(bytes.size() - static_cast<std::size_t>(tail)),
                              {.unit = unit.id, .rows = size, .cols = 1, .dtype = unit.dtype})
                     .matrix;
  slice.votes = width == 1   ? read_votes<std::uint8_t>(votes)
                : width == 2 ? read_votes<std::uint16_t>(votes)
                             : read_votes<std::uint32_t>(votes);
  const auto most = slice.votes.empty() ? 0U : *std::max_element(slice.votes.begin(), slice.votes.end());
  check<DataError>(most <= clients, "a finished slice holds more votes than there are clients");
  return slice;
}

aggregate::MergedMatrix empty_slice(const aggregate::MergedMatrix& other) {
  aggregate::MergedMatrix empty;
  empty.matrix.dtype = other.matrix.dtype;
  empty.histogram.resize(other.histogram.size());
  empty.target = other.target;
  return empty;
}

}  // namespace fedspallm::comm
