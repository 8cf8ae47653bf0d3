// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/random.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <set>
#include <vector>

namespace fedspallm {
namespace {

using Counter = std::array<std::uint32_t, 4>;

TEST(Philox, GivesTheKnownAnswersOfRandom123) {  // kat_vectors, philox4x32-10
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomBits, EveryPartOfTheKeyAndTheIndexMatters) {
  const RandomKey base{.seed = 1, .use = RandomUse::layer_sampling, .round = 2, .client = 3, .block = 4};
  std::vector<RandomKey> keys(7, base);
  keys[1].seed = 2;
  keys[2].seed = 1 | (std::uint64_t{1} << 32);
  keys[3].use = RandomUse::random_pruning;
  keys[4].round = 3;
  keys[5].client = 4;
  keys[6].block = 5;
  std::set<std::uint64_t> seen;
  for (const RandomKey& key : keys)
    for (const std::uint64_t index :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32, ~std::uint64_t{0}})
      seen.insert(random_bits(key, index));
  EXPECT_EQ(seen.size(), keys.size() * 4);
  EXPECT_EQ(random_bits(keys[0], 17), random_bits(base, 17));
}

TEST(RandomBits, EveryBitIsSetHalfOfTheTime) {
  constexpr int kDraws = 20000;
  std::array<int, 64> set{};
  for (std::uint64_t i = 0; i < kDraws; ++i)
    for (std::uint64_t word = random_bits({.seed = 9}, i), bit = 0; bit < 64; ++bit)
      set[bit] += (word >> bit) & 1U;
  for (const int count : set) EXPECT_NEAR(count, kDraws / 2, 5 * 70.7);  // 5 standard deviations
}

TEST(RandomBelow, StaysBelowItsBound) {
  const RandomKey key{.seed = 4};
  for (const std::uint64_t bound :
       {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{1000003}, ~std::uint64_t{0}})
    for (std::uint64_t i = 0; i < 1000; ++i) ASSERT_LT(random_below(key, i, bound), bound);
  EXPECT_EQ(random_below(key, 5, 1), 0U);
  EXPECT_THROW((void)random_below(key, 0, 0), LogicError);
}

TEST(RandomBelow, IsUniform) {
  // Chi-square; 99.99 % quantiles for bound - 1 degrees of freedom.
  const RandomKey key{.seed = 12, .use = RandomUse::simulation};
  for (const auto& [bound, limit] :
       {std::pair{2U, 15.2}, std::pair{7U, 27.9}, std::pair{10U, 33.8}, std::pair{100U, 161.4}}) {
    constexpr double kDraws = 100000;
    std::vector<double> count(bound, 0);
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(kDraws); ++i)
      ++count[random_below(key, i, bound)];
    double chi_square = 0;
    for (const double found : count)
      chi_square += (found - kDraws / bound) * (found - kDraws / bound) / (kDraws / bound);
    EXPECT_LT(chi_square, limit) << bound;
  }
}

}  // namespace
}  // namespace fedspallm
