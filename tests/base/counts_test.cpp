// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/counts.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

namespace fedspallm {
namespace {

TEST(ExactCount, ProductsThatAreIntegersUpToRoundingAreThatInteger) {
  EXPECT_EQ(exact_count(0.55, 100), 55);  // 55.000000000000007 in double
  EXPECT_EQ(exact_count(0.1, 30), 3);
  EXPECT_EQ(exact_count(0.29, 100), 29);  // 28.999999999999996
  EXPECT_EQ(exact_count(0.07, 100), 7);
  EXPECT_EQ(exact_count(1.0 / 3.0, 3), 1);
}

TEST(ExactCount, EveryPercentageOfAHundredIsItself) {
  for (int percent = 0; percent <= 100; ++percent) EXPECT_EQ(exact_count(percent / 100.0, 100), percent);
}

TEST(ExactCount, OtherProductsRoundUp) {
  EXPECT_EQ(exact_count(0.5, 3), 2);
  EXPECT_EQ(exact_count(0.333, 10), 4);
  EXPECT_EQ(exact_count(0.001, 1), 1);
  EXPECT_EQ(exact_count(0.7, 1536 * 576), 619316);  // 619,315.2
  EXPECT_EQ(exact_count(0.5, 1), 1);
  EXPECT_EQ(exact_count(0.50001, 100), 51);
}

TEST(ExactCount, EndsAreExactForAnySize) {
  for (const std::int64_t size : {0L, 1L, 2L, 63L, 64L, 1000003L, 1L << 40}) {
    EXPECT_EQ(exact_count(0.0, size), 0);
    EXPECT_EQ(exact_count(1.0, size), size);
    EXPECT_EQ(exact_count(0.5, 2 * size), size);
  }
  EXPECT_EQ(exact_count(0.7, 0), 0);
}

TEST(ExactCount, BrokenPreconditionsAreNamed) {
  EXPECT_THROW((void)exact_count(-0.1, 10), LogicError);
  EXPECT_THROW((void)exact_count(1.1, 10), LogicError);
  EXPECT_THROW((void)exact_count(std::nan(""), 10), LogicError);
  EXPECT_THROW((void)exact_count(0.5, -1), LogicError);
}

TEST(FindLevel, CountsUpFromTheWeightsThatFewestKept) {
  const std::int64_t kept[] = {7, 3, 0, 5, 2};  // seven that nobody kept
  const auto found = [&](std::int64_t count) {
    const Level level = find_level(kept, count);
    return std::pair(level.level, level.rank);
  };
  using Pair = std::pair<std::uint32_t, std::int64_t>;
  EXPECT_EQ(found(-4), Pair(0, 0));
  EXPECT_EQ(found(0), Pair(0, 0));
  EXPECT_EQ(found(1), Pair(1, 1));
  EXPECT_EQ(found(3), Pair(1, 3));
  EXPECT_EQ(found(4), Pair(3, 1)) << "nothing at level 2";
  EXPECT_EQ(found(8), Pair(3, 5));
  EXPECT_EQ(found(10), Pair(4, 2));
}

}  // namespace
}  // namespace fedspallm
