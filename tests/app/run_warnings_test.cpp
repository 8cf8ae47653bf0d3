// SPDX-License-Identifier: Apache-2.0
#include "run_warnings.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedspallm::app {
namespace {

using testing::ElementsAre;

BlockSummary block(std::uint32_t round, std::int64_t number, int damping_steps, bool above_target) {
  BlockSummary summary;
  summary.round = round;
  summary.block = number;
  summary.damping_steps = damping_steps;
  summary.above_target = above_target;
  return summary;
}

TEST(RunWarnings, AreOneSentenceForEachKindAndRound) {
  RunWarnings warnings;
  EXPECT_TRUE(warnings.texts().empty());
  warnings.add("first");
  warnings.add_uncovered(1, {});
  warnings.add_uncovered(2, {7});
  for (const std::int64_t number : {5, 0, 2, 1, 3})
    warnings.add(block(1, number, number == 3 ? 2 : 0, number != 3));
  warnings.add(block(2, 3, 1, false));
  EXPECT_THAT(
      warnings.texts(),
      ElementsAre(
          "first", "round 2, block 7: pruned by no client; what they were stays",
          "round 1, blocks 0-2, 5: the clients agree on more zeros than the target asks for; nothing was "
          "expanded there",
          "round 1, block 3: a Hessian needed its damping raised (by 10^2 at most)",
          "round 2, block 3: a Hessian needed its damping raised (by 10^1 at most)"));
}

TEST(RunWarnings, OfAnEarlierProcessComeFromTheRecord) {
  store::MatrixRecord matrix;
  matrix.target = 5;
  matrix.common_zeros = 4;
  matrix.expanded = 1;
  RunWarnings warnings;
  warnings.add(store::BlockRecord{.round = 1, .block = 0, .matrices = {matrix}});
  EXPECT_TRUE(warnings.texts().empty());
  matrix.common_zeros = 5;
  matrix.clients.push_back({.client = 0, .kept = 0, .report = {}});
  matrix.clients.back().report.damping_steps = 3;
  warnings.add(store::BlockRecord{.round = 1, .block = 1, .matrices = {matrix}});
  EXPECT_THAT(warnings.texts(), ElementsAre(testing::StartsWith("round 1, block 1: the clients agree"),
                                            testing::HasSubstr("10^3")));
}

}  // namespace
}  // namespace fedspallm::app
