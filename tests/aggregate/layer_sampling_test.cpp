// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/rules.hpp"
#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace fedspallm::aggregate {
namespace {

std::vector<std::int64_t> coverage_of(const std::vector<std::vector<bool>>& drawn, std::int64_t blocks) {
  std::vector<std::int64_t> coverage(static_cast<std::size_t>(blocks), 0);
  for (const auto& row : drawn)
    for (std::size_t block = 0; block < row.size(); ++block) coverage[block] += row[block] ? 1 : 0;
  return coverage;
}

TEST(DrawBlocks, GivesEachClientItsShareAndAtLeastOne) {
  const std::vector<double> resources = {1.0, 0.5, 0.25, 0.01, 0.97};
  const auto drawn = draw_blocks(resources, 12, 7, 1);
  const std::int64_t wanted[] = {12, 6, 3, 1, 12};
  ASSERT_EQ(drawn.size(), resources.size());
  for (std::size_t client = 0; client < drawn.size(); ++client) {
    ASSERT_EQ(drawn[client].size(), 12U);
    EXPECT_EQ(std::count(drawn[client].begin(), drawn[client].end(), true), wanted[client]);
  }
}

TEST(DrawBlocks, CoversBlocksAsEvenlyAsResourcesAllow) {
  const std::vector<std::vector<double>> mixes = {{0.1},
                                                  {0.3, 0.3, 0.4},
                                                  {1.0, 0.5, 0.5},
                                                  {0.05, 0.9, 0.33, 0.6, 0.2, 0.77},
                                                  std::vector<double>(40, 0.15)};
  for (const auto& resources : mixes)
    for (const std::int64_t blocks : {1, 2, 7, 30, 33})
      for (std::uint64_t seed = 0; seed < 20; ++seed) {
        const auto coverage = coverage_of(draw_blocks(resources, blocks, seed, 1), blocks);
        const auto [least, most] = std::minmax_element(coverage.begin(), coverage.end());
        EXPECT_LE(*most - *least, 1);
      }
}

TEST(DrawBlocks, IsAFunctionOfSeedAndRoundAlone) {
  const std::vector<double> resources = {0.5, 0.3, 0.8};
  const auto drawn = draw_blocks(resources, 16, 42, 3);
  EXPECT_EQ(draw_blocks(resources, 16, 42, 3), drawn);
  EXPECT_NE(draw_blocks(resources, 16, 43, 3), drawn);
  EXPECT_NE(draw_blocks(resources, 16, 42, 4), drawn);
}

TEST(DrawBlocks, EveryBlockIsEquallyLikelyForEveryClient) {
  // Chi-square over blocks of how often a client draws each; 99.99 % quantile of 11 degrees of freedom
  // is 37.4. Draws without replacement vary less than the multinomial ones that the quantile belongs to.
  constexpr std::int64_t kBlocks = 12, kTrials = 6000;
  const std::vector<double> resources = {0.25, 0.5, 0.34, 0.09};
  std::vector<std::vector<double>> count(resources.size(), std::vector<double>(kBlocks, 0));
  for (std::uint64_t seed = 0; seed < kTrials; ++seed) {
    const auto drawn = draw_blocks(resources, kBlocks, seed, 1);
    for (std::size_t client = 0; client < drawn.size(); ++client)
      for (std::size_t block = 0; block < kBlocks; ++block)
        count[client][block] += drawn[client][block] ? 1 : 0;
  }
  for (std::size_t client = 0; client < resources.size(); ++client) {
    const double expected = kTrials * std::max(1.0, std::round(resources[client] * kBlocks)) / kBlocks;
    double chi_square = 0;
    for (const double found : count[client]) chi_square += (found - expected) * (found - expected) / expected;
    EXPECT_LT(chi_square, 37.4) << "client " << client;
    EXPECT_GT(chi_square, 0.5) << "client " << client << ": suspiciously even";
  }
}

TEST(DrawBlocks, BrokenPreconditionsAreNamed) {
  EXPECT_THROW((void)draw_blocks({0.0}, 4, 1, 1), LogicError);
  EXPECT_THROW((void)draw_blocks({1.5}, 4, 1, 1), LogicError);
  EXPECT_THROW((void)draw_blocks({std::nan("")}, 4, 1, 1), LogicError);
  EXPECT_THROW((void)draw_blocks({1.0}, 0, 1, 1), LogicError);
  EXPECT_TRUE(draw_blocks({}, 3, 1, 1).empty());
}

}  // namespace
}  // namespace fedspallm::aggregate
