// SPDX-License-Identifier: Apache-2.0
#include "simulate_updates.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/random.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace fedspallm::app {

namespace {

/// Random words number 0, 1, ... of one update: SplitMix64 (Steele, Lea, Flood 2014), which is a function of
/// a counter and far cheaper than Philox; its start is drawn from that.
class Words {
 public:
  explicit Words(std::uint64_t start) : state_(start) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

/// `count` of the lowest `width` bits, from a random word that is corrected bit by bit.
std::uint64_t word_with(int count, int width, Words& words) {
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

/// Exactly `kept` bits in all, spread evenly over the words: of what is left each word has its share, rounded
/// up.
template <class WordWith>
void fill_mask(std::int64_t size, std::int64_t kept, WordWith word, std::vector<std::uint64_t>& bits) {
  bits.resize(static_cast<std::size_t>(wire::mask_words(size)));
  std::int64_t given = 0;
  for (std::size_t i = 0; i < bits.size(); ++i) {
    const std::int64_t begin = static_cast<std::int64_t>(i) * 64;
    const std::int64_t end = std::min(size, begin + 64);
    const std::int64_t left = size - begin;
    const auto count =
        static_cast<int>(std::min(end - begin, ((kept - given) * (end - begin) + left - 1) / left));
    bits[i] = word(count, static_cast<int>(end - begin));
    given += count;
  }
}

/// N of every M consecutive weights: a run of N that begins anywhere in the group.
void fill_groups(std::int64_t size, const config::Pattern& pattern, Words& words,
                 std::vector<std::uint64_t>& bits) {
  bits.assign(static_cast<std::size_t>(wire::mask_words(size)), 0);
  for (std::int64_t group = 0; group < size; group += pattern.group) {
    const auto first = static_cast<std::int64_t>(words.next() % static_cast<std::uint64_t>(pattern.group));
    for (std::int64_t k = 0; k < pattern.keep; ++k) {
      const std::int64_t bit = group + (first + k) % pattern.group;
      bits[static_cast<std::size_t>(bit / 64)] |= std::uint64_t{1} << (bit % 64);
    }
  }
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

void fill_values(DType dtype, std::int64_t count, Words& words, std::vector<std::byte>& values) {
  const Lanes lanes = lanes_of(dtype);
  values.resize(static_cast<std::size_t>(count) * size_of(dtype));
  const auto next = [&] {
    const std::uint64_t random = words.next();
    return (random & lanes.keep) | (lanes.base - (random & lanes.exponent));
  };
  const std::size_t whole = values.size() / sizeof(std::uint64_t) * sizeof(std::uint64_t);
  for (std::size_t i = 0; i < whole; i += sizeof(std::uint64_t)) {
    const std::uint64_t word = next();
    std::memcpy(values.data() + i, &word, sizeof word);
  }
  if (whole == values.size()) return;
  const std::uint64_t last = next();
  std::memcpy(values.data() + whole, &last, values.size() - whole);
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
  Words words(random_bits({.seed = seed, .use = RandomUse::simulation}, std::uint64_t{1} << 41));
  for (const comm::PlannedUnit& unit : plan.units) {
    const std::int64_t share = unit.expected_kept * 64 / std::max<std::int64_t>(1, unit.rows * unit.cols);
    for (std::int64_t count = share; count <= std::min<std::int64_t>(64, share + 1); ++count) {
      std::vector<std::uint64_t>& draws = draws_[static_cast<std::size_t>(count)];
      if (pattern.structured() || !draws.empty()) continue;
      draws.resize(kDraws);
      for (std::uint64_t& word : draws) word = word_with(static_cast<int>(count), 64, words);
    }
  }
}

comm::UpdateSummary UpdateMaker::summary(std::size_t index, std::uint32_t client) const {
  const comm::PlannedUnit& unit = plan_.units.at(index);
  return {.client = client,
          .kept = unit.expected_kept,
          .largest = unit.expected_kept > 0 ? 1.0F : 0.0F,
          .largest_diagonal = unit.with_diagonal ? 1.0F : 0.0F,
          .report = {}};
}

wire::MatrixUpdate UpdateMaker::make(std::size_t index, std::uint32_t client) const {
  const comm::PlannedUnit& unit = plan_.units.at(index);
  Words words(random_bits({.seed = seed_,
                           .use = RandomUse::simulation,
                           .round = unit.id.round,
                           .client = client,
                           .block = unit.id.block},
                          std::uint64_t{1} << 40 | unit.id.matrix));  // far from the laws' numbers
  wire::MatrixUpdate update;
  update.unit = unit.id;
  update.client = client;
  wire::PackedMatrix& matrix = update.matrix;
  matrix.rows = unit.rows;
  matrix.cols = unit.cols;
  matrix.dtype = unit.dtype;
  matrix.kept = unit.expected_kept;
  if (pattern_.structured())
    fill_groups(matrix.size(), pattern_, words, matrix.bits);
  else
    fill_mask(
        matrix.size(), matrix.kept,
        [&](int count, int width) {
          // Making a word of so many bits takes longer than adding it to a merge; drawing and turning one
          // that was made does not. Of 2^16 words two clients seldom draw the same.
          const std::vector<std::uint64_t>& draws = draws_[static_cast<std::size_t>(count)];
          if (width < 64 || draws.empty()) return word_with(count, width, words);
          const std::uint64_t random = words.next();
          return std::rotl(draws[random % kDraws], static_cast<int>(random >> 58));
        },
        matrix.bits);
  fill_values(unit.dtype, matrix.kept, words, matrix.values);
  if (unit.with_diagonal) {
    update.hessian_diagonal.resize(static_cast<std::size_t>(unit.cols));
    for (float& value : update.hessian_diagonal) value = static_cast<float>(words.next() >> 40) * 0x1p-24F;
  }
  return update;
}

}  // namespace fedspallm::app
