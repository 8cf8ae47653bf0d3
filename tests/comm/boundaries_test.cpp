// SPDX-License-Identifier: Apache-2.0
// The states behind agreed boundaries, without threads or messages.
#include "comm/boundaries.hpp"

#include <gtest/gtest.h>

namespace fedspallm::comm {
namespace {

TEST(Boundaries, NobodyBeginsABlockBetweenTheQuestionAndTheDecision) {
  Boundaries rank;
  EXPECT_EQ(rank.begin(0, true), Boundary::go_on);
  EXPECT_EQ(rank.hold(), 1U) << "the first block not begun";
  EXPECT_EQ(rank.begin(1, true), std::nullopt);
  rank.decide(Boundary::stop, 3);
  EXPECT_EQ(rank.begin(1, true), Boundary::go_on);
  EXPECT_EQ(rank.begin(2, true), Boundary::go_on);
  EXPECT_EQ(rank.told_to_stop(), std::nullopt);
  EXPECT_EQ(rank.begin(3, true), Boundary::stop);
  EXPECT_EQ(rank.told_to_stop(), 3U);
  EXPECT_EQ(rank.next(), 3U);
}

TEST(Boundaries, ASaveIsToldOnceAndAStopAtTheSameBlockTakesItsPlace) {
  Boundaries rank;
  rank.decide(Boundary::save, 4);
  EXPECT_EQ(rank.begin(3, true), Boundary::go_on);
  EXPECT_EQ(rank.begin(4, true), Boundary::save);
  EXPECT_EQ(rank.begin(5, true), Boundary::go_on);
  rank.decide(Boundary::save, 6);
  rank.decide(Boundary::save, 7);
  rank.decide(Boundary::stop, 7);
  EXPECT_EQ(rank.begin(6, true), Boundary::save) << "others have saved here already";
  EXPECT_EQ(rank.begin(7, true), Boundary::stop);
}

TEST(Boundaries, WithoutRoomABlockIsNotBegunButAStopIsHeard) {
  Boundaries rank;
  EXPECT_EQ(rank.begin(5, false), std::nullopt);
  EXPECT_EQ(rank.hold(), 0U);
  rank.decide(Boundary::stop, 5);
  EXPECT_EQ(rank.begin(5, false), Boundary::stop);
}

TEST(Boundaries, ARankWhoseClientsAreGoneIsNeverHeldAndHoldsNobodyUp) {
  Boundaries rank;
  EXPECT_EQ(rank.begin(2, true), Boundary::go_on);
  EXPECT_EQ(rank.pass(30), Boundary::go_on);
  EXPECT_EQ(rank.hold(), 3U) << "what it passes is not begun";
  EXPECT_EQ(rank.pass(31), Boundary::go_on);
  rank.decide(Boundary::stop, 3);
  EXPECT_EQ(rank.pass(32), Boundary::stop);
  EXPECT_EQ(rank.told_to_stop(), 3U);
}

TEST(Boundaries, BeforeAnythingIsBegunTheFirstBlockIsTheBoundary) {
  Boundaries rank(7);
  BoundaryVote vote(1);
  EXPECT_TRUE(vote.request(Boundary::save));
  const auto decision = vote.answer(rank.hold());
  ASSERT_TRUE(decision);
  EXPECT_EQ(decision->block, 7U);
  rank.decide(decision->what, decision->block);
  EXPECT_EQ(rank.begin(7, true), Boundary::save);
}

TEST(BoundaryVote, DecidesOnTheFirstBlockThatNobodyHasBegun) {
  BoundaryVote vote(3);
  EXPECT_TRUE(vote.request(Boundary::save));
  EXPECT_FALSE(vote.request(Boundary::save)) << "all are being asked already";
  EXPECT_FALSE(vote.answer(2));
  EXPECT_FALSE(vote.answer(7));
  const auto decision = vote.answer(0);
  ASSERT_TRUE(decision);
  EXPECT_EQ(decision->what, Boundary::save);
  EXPECT_EQ(decision->block, 7U);
}

TEST(BoundaryVote, AStopWishedForMeanwhileWinsAndIsTheLastDecision) {
  BoundaryVote vote(2);
  EXPECT_TRUE(vote.request(Boundary::save));
  EXPECT_FALSE(vote.answer(1));
  EXPECT_FALSE(vote.request(Boundary::stop));
  const auto decision = vote.answer(1);
  ASSERT_TRUE(decision);
  EXPECT_EQ(decision->what, Boundary::stop);
  EXPECT_FALSE(vote.request(Boundary::save));
  EXPECT_FALSE(vote.request(Boundary::stop));
}

TEST(BoundaryVote, ASecondSaveAsksAgain) {
  BoundaryVote vote(1);
  EXPECT_TRUE(vote.request(Boundary::save));
  EXPECT_EQ(vote.answer(1)->block, 1U);
  EXPECT_TRUE(vote.request(Boundary::stop));
  const auto decision = vote.answer(4);
  ASSERT_TRUE(decision);
  EXPECT_EQ(decision->what, Boundary::stop);
  EXPECT_EQ(decision->block, 4U);
}

TEST(BoundaryVote, AnAnswerWithoutAQuestionIsRefused) {
  BoundaryVote vote(2);
  EXPECT_THROW((void)vote.answer(0), PeerError);
}

}  // namespace
}  // namespace fedspallm::comm
