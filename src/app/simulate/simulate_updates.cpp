// SPDX-License-Identifier: Apache-2.0
#include "simulate_updates.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/comm/cost_model.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace fedspallm::app {

/// Random words number `first`, `first` + 1, ... of one stream: SplitMix64 (Steele, Lea, Flood 2014), which
/// is a function of a counter and far cheaper than Philox; its start is drawn from that.
class RandomWords {
 public:
  explicit RandomWords(std::uint64_t start, std::int64_t first = 0)
      : state_(start + static_cast<std::uint64_t>(first) * kStep) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += kStep;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }

 private:
  static constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15U;
  std::uint64_t state_;
};

namespace {

/// `count` of the lowest `width` bits, from a random word that is corrected bit by bit.
std::uint64_t word_with(int count, int width, RandomWords& words) {
  const std::uint64_t all = width == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << width) - 1;
  std::uint64_t word = words.next();
  if (count * 4 < width) word &= words.next();      // start near to a quarter,
  if (count * 4 > 3 * width) word |= words.next();  // half or three quarters
  word &= all;
  // Corrections begin at a random bit: else low bits would have another density.
  const int turn = static_cast<int>(words.next() % 64);
  word = std::rotl(word, turn);
  const std::uint64_t places = std::rotl(all, turn);
  int left = std::popcount(word) - count;
  for (; left > 0; --left) word &= word - 1;
  for (; left < 0; ++left) {
    const std::uint64_t free = places & ~word;
    word |= free & (~free + 1);
  }
  return std::rotr(word, turn);
}

/// N of every M consecutive ones of the first `size` bits: a run of N that begins anywhere in the group.
void fill_groups(std::int64_t size, const config::Pattern& pattern, RandomWords& words,
                 std::span<std::uint64_t> bits) {
  for (std::int64_t group = 0; group < size; group += pattern.group) {
    const auto first = static_cast<std::int64_t>(words.next() % static_cast<std::uint64_t>(pattern.group));
    for (std::int64_t k = 0; k < pattern.keep; ++k) {
      const std::int64_t bit = group + (first + k) % pattern.group;
      bits[static_cast<std::size_t>(bit / 64)] |= std::uint64_t{1} << (bit % 64);
    }
  }
}

/// Whether no group lies in two words of a mask.
bool fits_words(const config::Pattern& pattern) {
  return !pattern.structured() || 64 % pattern.group == 0;
}

/// How random bits become numbers of [2^-8, 1) with either sign: sign and mantissa are kept, three bits of
/// the exponent are taken off that of 0.5.
struct Lanes {
  std::uint64_t keep, base, exponent;
};
Lanes lanes_of(DType dtype) {
  const auto four = [](std::uint64_t lane) { return lane * 0x0001000100010001U; };
  const auto two = [](std::uint64_t lane) { return lane * 0x0000000100000001U; };
  switch (dtype) {
    case DType::bf16:
      return {four(0x807F), four(0x3F00), four(0x0380)};
    case DType::f16:
      return {four(0x83FF), four(0x3800), four(0x1C00)};
    case DType::f32:
      return {two(0x807FFFFF), two(0x3F000000), two(0x03800000)};
    default:
      throw LogicError("UpdateMaker: a dtype of weights");
  }
}

/// Values number `before` and following.
void fill_values(DType dtype, std::int64_t before, std::int64_t count, std::uint64_t start,
                 std::vector<std::byte>& values) {
  constexpr std::size_t kWord = sizeof(std::uint64_t);
  const Lanes lanes = lanes_of(dtype);
  const std::size_t first = static_cast<std::size_t>(before) * size_of(dtype);
  RandomWords words(start, static_cast<std::int64_t>(first / kWord));
  values.resize(static_cast<std::size_t>(count) * size_of(dtype));
  std::size_t skip = first % kWord;  // of the first word: another slice's
  for (std::size_t i = 0; i < values.size();) {
    const std::uint64_t random = words.next();
    const std::uint64_t word = (random & lanes.keep) | (lanes.base - (random & lanes.exponent));
    const std::size_t bytes = std::min(kWord - skip, values.size() - i);
    if (bytes == kWord)
      std::memcpy(values.data() + i, &word, kWord);
    else
      std::memcpy(values.data() + i, reinterpret_cast<const std::byte*>(&word) + skip, bytes);
    i += bytes;
    skip = 0;
  }
}

}  // namespace

UpdateMaker::UpdateMaker(const comm::ExchangePlan& plan, const config::Pattern& pattern, std::uint64_t seed)
    : plan_(plan), pattern_(pattern), seed_(seed) {
  for (const comm::PlannedUnit& unit : plan.units) {
    require(unit.expected_kept >= 0 && unit.expected_kept <= unit.rows * unit.cols,
            "UpdateMaker: the count of kept weights is known");
    require(
        !pattern.structured() || (unit.cols % pattern.group == 0 &&
                                  unit.expected_kept * pattern.group == unit.rows * unit.cols * pattern.keep),
        "UpdateMaker: groups of the pattern divide the columns");
  }
  if (!fits_words(pattern)) return;
  RandomWords words(random_bits({.seed = seed, .use = RandomUse::simulation}, std::uint64_t{1} << 41));
  for (const comm::PlannedUnit& unit : plan.units) {
    const std::int64_t share = unit.expected_kept * 64 / std::max<std::int64_t>(1, unit.rows * unit.cols);
    for (std::int64_t count = share; count <= std::min<std::int64_t>(64, share + 1); ++count) {
      std::vector<std::uint64_t>& draws = draws_[static_cast<std::size_t>(count)];
      if (!draws.empty()) continue;
      draws.resize(kDraws);
      for (std::uint64_t& word : draws) word = make_word(static_cast<int>(count), 64, words);
    }
  }
}

std::uint64_t UpdateMaker::make_word(int count, int width, RandomWords& words) const {
  if (!pattern_.structured()) return word_with(count, width, words);
  std::uint64_t word = 0;
  fill_groups(width, pattern_, words, std::span(&word, 1));
  return word;
}

comm::UpdateSummary UpdateMaker::summary(std::size_t index, std::uint32_t client) const {
  const comm::PlannedUnit& unit = plan_.units.at(index);
  return {.client = client,
          .kept = unit.expected_kept,
          .largest = unit.expected_kept > 0 ? 1.0F : 0.0F,
          .largest_diagonal = unit.with_diagonal ? 1.0F : 0.0F,
          .report = {}};
}

std::uint64_t UpdateMaker::start_of(std::size_t index, std::uint32_t client, Part part) const {
  const comm::PlannedUnit& unit = plan_.units.at(index);
  return random_bits({.seed = seed_,
                      .use = RandomUse::simulation,
                      .round = unit.id.round,
                      .client = client,
                      .block = unit.id.block},
                     // far from the laws' numbers
                     std::uint64_t{1} << 40 | static_cast<std::uint64_t>(part) << 32 | unit.id.matrix);
}

std::int64_t UpdateMaker::kept_of(std::size_t index, const aggregate::Slice& slice) const {
  const comm::PlannedUnit& unit = plan_.units.at(index);
  return comm::evenly_before(unit, unit.expected_kept, slice.end) -
         comm::evenly_before(unit, unit.expected_kept, slice.begin);
}

/// Kept weights are spread evenly over the words, of which each has its share, rounded up or down.
void UpdateMaker::fill_mask(std::size_t index, std::uint32_t client, const aggregate::Slice& slice,
                            std::vector<std::uint64_t>& bits) const {
  const std::uint64_t start = start_of(index, client, Part::mask);
  bits.assign(static_cast<std::size_t>(wire::mask_words(slice.size())), 0);
  if (!fits_words(pattern_)) {
    RandomWords words(start, slice.begin / pattern_.group);
    return fill_groups(slice.size(), pattern_, words, bits);
  }
  const comm::PlannedUnit& unit = plan_.units.at(index);
  const int grain = pattern_.structured() ? static_cast<int>(pattern_.group) : 1;
  RandomWords words(start, slice.begin / 64);
  std::int64_t given = comm::evenly_before(unit, unit.expected_kept, slice.begin);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    const std::int64_t begin = slice.begin + static_cast<std::int64_t>(i) * 64;
    const std::int64_t end = std::min(slice.end, begin + 64);
    const std::int64_t after = comm::evenly_before(unit, unit.expected_kept, end);
    const auto count = static_cast<int>(after - std::exchange(given, after));
    if (end - begin < 64) {
      RandomWords last(start_of(index, client, Part::last_word));
      bits[i] = make_word(count, static_cast<int>(end - begin), last);
      continue;
    }
    // Making a word of so many bits takes longer than adding it to a merge; drawing and turning one that was
    // made does not. Of 2^16 words (N:M: fewer) two clients seldom draw the same.
    const std::vector<std::uint64_t>& draws = draws_[static_cast<std::size_t>(count)];
    const std::uint64_t random = words.next();
    bits[i] = std::rotl(draws[random % kDraws], static_cast<int>(random >> 58) / grain * grain);
  }
}

wire::PackedMatrix UpdateMaker::make_slice(std::size_t index, std::uint32_t client,
                                           const aggregate::Slice& slice) const {
  const comm::PlannedUnit& unit = plan_.units.at(index);
  require(slice.size() == 0 || slice.begin % 64 == 0, "UpdateMaker: a slice begins with a word of its mask");
  wire::PackedMatrix matrix;
  matrix.rows = slice.size();
  matrix.cols = 1;
  matrix.dtype = unit.dtype;
  matrix.kept = kept_of(index, slice);
  fill_mask(index, client, slice, matrix.bits);
  fill_values(unit.dtype, comm::evenly_before(unit, unit.expected_kept, slice.begin), matrix.kept,
              start_of(index, client, Part::values), matrix.values);
  return matrix;
}

std::vector<float> UpdateMaker::make_diagonal(std::size_t index, std::uint32_t client) const {
  const comm::PlannedUnit& unit = plan_.units.at(index);
  std::vector<float> diagonal(unit.with_diagonal ? static_cast<std::size_t>(unit.cols) : 0);
  RandomWords words(start_of(index, client, Part::diagonal));
  for (float& value : diagonal) value = static_cast<float>(words.next() >> 40) * 0x1p-24F;
  return diagonal;
}

wire::MatrixUpdate UpdateMaker::make(std::size_t index, std::uint32_t client) const {
  const comm::PlannedUnit& unit = plan_.units.at(index);
  wire::MatrixUpdate update;
  update.unit = unit.id;
  update.client = client;
  update.matrix = make_slice(index, client, {0, unit.rows * unit.cols});
  update.matrix.rows = unit.rows;
  update.matrix.cols = unit.cols;
  update.hessian_diagonal = make_diagonal(index, client);
  return update;
}

}  // namespace fedspallm::app
