// SPDX-License-Identifier: Apache-2.0
#include "recount.hpp"

#include "fedspallm/base/error.hpp"

#include "packed_checks.hpp"
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace fedspallm::store {

namespace {

bool is_kept(const wire::PackedMatrix& matrix, std::int64_t index) {
  return ((matrix.bits[static_cast<std::size_t>(index / 64)] >> (index % 64)) & 1) != 0;
}

/// Collects the sentences of one matrix.
class Findings {
 public:
  Findings(const MatrixRecord& record, Recount& result) : record_(record), result_(result) {}

  void equal(std::string_view what, std::int64_t found, std::int64_t expected) {
    if (found != expected) add(fmt::format("{}: found {}, expected {}", what, found, expected));
  }
  void add(const std::string& what) { result_.problems.push_back(fmt::format("{}: {}", record_.name, what)); }

 private:
  const MatrixRecord& record_;
  Recount& result_;
};

template <class Bits>
std::int64_t count_zero_bits(std::span<const std::byte> bytes) {
  constexpr Bits kMagnitude = std::numeric_limits<Bits>::max() >> 1;  // all but the sign
  std::int64_t zeros = 0;
  const std::size_t count = bytes.size() / sizeof(Bits);
  for (std::size_t i = 0; i < count; ++i) {
    Bits value;
    std::memcpy(&value, bytes.data() + i * sizeof(Bits), sizeof(Bits));  // files promise no alignment
    zeros += (value & kMagnitude) == 0 ? 1 : 0;
  }
  return zeros;
}

// ---------------------------------------------------------------- mask and values

void recount_mask(const MatrixRecord& record, Findings& findings, Recount& result) {
  const wire::PackedMatrix& matrix = record.matrix;
  const std::int64_t kept = wire::count_mask_bits(matrix.bits);
  result.dropped = matrix.size() - kept;
  findings.equal("kept weights, mask against record", kept, matrix.kept);
  const auto width = static_cast<std::int64_t>(size_of(matrix.dtype));
  const std::int64_t values = static_cast<std::int64_t>(matrix.values.size()) / width;
  findings.equal("number of values against mask", values, kept);
  result.sound = packing_fault(matrix).empty();
  if (result.sound == false && kept == matrix.kept && values == kept) findings.add(packing_fault(matrix));
  result.kept_zeros = count_zeros(matrix.dtype, matrix.values);
  findings.equal("kept weights with value 0, values against record", result.kept_zeros, record.kept_zeros);
}

/// Set bits of [begin, begin + count). @pre 0 < count <= 64
int kept_in(const wire::PackedMatrix& matrix, std::int64_t begin, int count) {
  const auto word = static_cast<std::size_t>(begin / 64);
  const int shift = static_cast<int>(begin % 64);
  std::uint64_t bits = matrix.bits[word] >> shift;
  if (shift != 0 && shift + count > 64) bits |= matrix.bits[word + 1] << (64 - shift);
  if (count < 64) bits &= (std::uint64_t{1} << count) - 1;
  return std::popcount(bits);
}

/// Every M consecutive weights of a row keep exactly N.
void recount_groups(const MatrixRecord& record, Findings& findings) {
  const wire::PackedMatrix& matrix = record.matrix;
  const bool sensible = record.keep > 0 && record.keep < record.group && record.group <= 64;
  if (!sensible || matrix.cols % record.group != 0) {
    findings.add(fmt::format("pattern {}:{} for {} columns, expected N < M <= 64 and columns divisible by M",
                             record.keep, record.group, matrix.cols));
    return;
  }
  std::int64_t wrong = 0;
  std::int64_t first = 0;
  int first_kept = 0;
  for (std::int64_t begin = 0; begin < matrix.size(); begin += record.group) {
    const int kept = kept_in(matrix, begin, record.group);
    if (kept == record.keep) continue;
    if (wrong++ == 0) {
      first = begin;
      first_kept = kept;
    }
  }
  if (wrong > 0) {
    findings.add(fmt::format(
        "{}:{} pattern: {} groups differ; the first, at row {}, column {}: found {} kept, expected {}",
        record.keep, record.group, wrong, first / matrix.cols, first % matrix.cols, first_kept, record.keep));
  }
}

// ---------------------------------------------------------------- votes

struct VoteCounts {
  std::vector<std::int64_t> histogram;
  std::int64_t beyond = 0;           // votes of more clients than there are
  std::int64_t common_but_kept = 0;  // every client dropped it, the merged mask keeps it
  std::int64_t most_votes_kept = -1;
  std::int64_t fewest_votes_dropped = std::numeric_limits<std::int64_t>::max();  // common zeros apart
  std::int64_t sum = 0;
};

VoteCounts count_votes(const MatrixRecord& record) {
  VoteCounts counts;
  const auto clients = static_cast<std::int64_t>(record.histogram.size()) - 1;
  counts.histogram.assign(record.histogram.size(), 0);
  for (std::size_t i = 0; i < record.votes.size(); ++i) {
    const std::int64_t votes = record.votes[i];
    counts.sum += votes;
    if (votes > clients) {
      ++counts.beyond;
      continue;
    }
    ++counts.histogram[static_cast<std::size_t>(votes)];
    const bool kept = is_kept(record.matrix, static_cast<std::int64_t>(i));
    if (kept) counts.most_votes_kept = std::max(counts.most_votes_kept, votes);
    if (kept && votes == clients) ++counts.common_but_kept;
    if (!kept && votes < clients) counts.fewest_votes_dropped = std::min(counts.fewest_votes_dropped, votes);
  }
  return counts;
}

void recount_clients(const MatrixRecord& record, const VoteCounts& counts, Findings& findings) {
  const auto clients = static_cast<std::int64_t>(record.histogram.size()) - 1;
  if (record.clients.empty()) return;
  findings.equal("clients in the record, list against histogram",
                 static_cast<std::int64_t>(record.clients.size()), clients);
  if (static_cast<std::int64_t>(record.clients.size()) != clients) return;
  std::int64_t dropped = 0;
  for (const ClientPart& part : record.clients) dropped += record.matrix.size() - part.kept;
  findings.equal("sum of votes against what the clients dropped", counts.sum, dropped);
}

/// Votes, histogram and the rule of mask expansion (the most voted go first; N:M chooses per group instead).
void recount_votes(const MatrixRecord& record, Findings& findings, Recount& result) {
  if (record.histogram.size() < 2) return findings.add("no histogram of votes");
  if (static_cast<std::int64_t>(record.votes.size()) != record.matrix.size())
    return findings.equal("number of votes", static_cast<std::int64_t>(record.votes.size()),
                          record.matrix.size());
  const VoteCounts counts = count_votes(record);
  result.histogram = counts.histogram;
  findings.equal("weights with more votes than clients", counts.beyond, 0);
  for (std::size_t bin = 0; bin < counts.histogram.size(); ++bin)
    findings.equal(fmt::format("weights with {} votes, votes against histogram", bin), counts.histogram[bin],
                   record.histogram[bin]);
  findings.equal("weights that every client dropped, votes against record", counts.histogram.back(),
                 record.common_zeros);
  findings.equal("weights kept although every client dropped them", counts.common_but_kept, 0);
  if (record.group == 0 && counts.most_votes_kept > counts.fewest_votes_dropped) {
    findings.add(fmt::format("mask expansion: a weight with {} votes is kept while one with {} is dropped",
                             counts.most_votes_kept, counts.fewest_votes_dropped));
  }
  recount_clients(record, counts, findings);
}

void recount_target(const MatrixRecord& record, Findings& findings, const Recount& result) {
  findings.equal("dropped weights, mask against common zeros + expanded", result.dropped,
                 record.common_zeros + record.expanded);
  if (record.target < 0) {
    findings.equal("weights dropped by expansion without a target", record.expanded, 0);
    return;
  }
  // More common zeros than asked (clients of unequal sparsity): nothing is expanded, and the record says so.
  findings.equal("dropped weights against target", result.dropped,
                 std::max(record.target, record.common_zeros));
  if (record.group > 0) recount_groups(record, findings);
}

}  // namespace

std::int64_t count_zeros(DType dtype, std::span<const std::byte> bytes) {
  require(bytes.size() % size_of(dtype) == 0, "whole elements");
  return dtype == DType::f32 ? count_zero_bits<std::uint32_t>(bytes) : count_zero_bits<std::uint16_t>(bytes);
}

std::int64_t first_difference(const wire::PackedMatrix& matrix, std::span<const std::byte> dense) {
  const auto width = static_cast<std::int64_t>(size_of(matrix.dtype));
  require(static_cast<std::int64_t>(dense.size()) == matrix.size() * width, "the same number of weights");
  std::vector<std::byte> unpacked;
  std::int64_t value = 0;
  for (std::int64_t begin = 0; begin < matrix.size(); begin += kSliceWeights) {
    const std::int64_t end = std::min(begin + kSliceWeights, matrix.size());
    unpacked.resize(static_cast<std::size_t>((end - begin) * width));
    wire::unpack_stored(wire::slice(matrix, begin, end, value), unpacked);
    const auto piece = dense.subspan(static_cast<std::size_t>(begin * width), unpacked.size());
    const auto differs = std::mismatch(unpacked.begin(), unpacked.end(), piece.begin());
    if (differs.first != unpacked.end()) return begin + (differs.first - unpacked.begin()) / width;
  }
  return -1;
}

Recount recount(const MatrixRecord& record, bool of_client) {
  Recount result;
  Findings findings(record, result);
  if (!record.pruned) {
    result.kept_zeros = record.kept_zeros;
    return result;
  }
  recount_mask(record, findings, result);
  if (of_client) {
    if (record.target >= 0) findings.equal("dropped weights against target", result.dropped, record.target);
    if (record.group > 0) recount_groups(record, findings);
    return result;
  }
  recount_votes(record, findings, result);
  recount_target(record, findings, result);
  return result;
}

}  // namespace fedspallm::store
