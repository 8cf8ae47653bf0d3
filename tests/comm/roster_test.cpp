// SPDX-License-Identifier: Apache-2.0
// Who delivers what, without MPI: the root's roster, which refuses announcements that cannot be true, and a
// rank's list of what is due.
#include "comm/roster.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/due_list.hpp"
#include "comm/exchange_case.hpp"
#include <limits>

namespace fedspallm::comm {
namespace {

using test::thrown_by;
using testing::ElementsAre;
using testing::HasSubstr;

/// Three blocks of two matrices of 4 x 8; clients 0 and 2 on rank 0, client 1 on rank 1.
PlanIndex three_clients() {
  return {test::make_plan(
              {.clients = 3, .ranks = 2, .blocks = 3, .shapes = {{4, 8, DType::f32}, {4, 8, DType::f32}}}),
          2};
}

Announcement of(std::uint32_t client) {
  return {.client = client, .kept = 16, .largest = 1.5F, .largest_diagonal = 0, .report = {}};
}

TEST(Roster, AUnitIsReadyOnceAllHaveAnnouncedIt) {
  const PlanIndex plan = three_clients();
  Roster roster(plan);
  EXPECT_FALSE(roster.waits_for_some(1)) << "nobody has announced it";
  roster.announce(0, 1, {of(2), of(0)});
  EXPECT_EQ(roster.ready(1), nullptr);
  EXPECT_TRUE(roster.waits_for_some(1));
  EXPECT_THAT(roster.missing(1), ElementsAre(1));
  roster.announce(1, 1, {of(1)});
  const auto ready = roster.ready(1);
  ASSERT_NE(ready, nullptr);
  ASSERT_EQ(ready->said.size(), 3U);
  for (std::uint32_t client = 0; client < 3; ++client) EXPECT_EQ(ready->said[client].client, client);
  EXPECT_EQ(ready->scale, aggregate::FixedPoint::covering(1.5F, 3));
  EXPECT_EQ(roster.ready(1), ready);
  EXPECT_FALSE(roster.waits_for_some(1));
  EXPECT_EQ(roster.ready(6), nullptr) << "the end of the plan";
}

TEST(Roster, DoesNotWaitForADroppedClient) {
  const PlanIndex plan = three_clients();
  Roster roster(plan);
  roster.announce(0, 2, {of(0), of(2)});
  EXPECT_TRUE(roster.drop(1, 2));
  ASSERT_NE(roster.ready(2), nullptr);
  EXPECT_EQ(roster.ready(2)->said.size(), 2U);
  EXPECT_EQ(roster.ready(2)->scale, aggregate::FixedPoint::covering(1.5F, 2));
  EXPECT_THAT(roster.missing(1), ElementsAre(0, 1, 2)) << "before the drop all are waited for";
  EXPECT_FALSE(roster.drop(1, 0)) << "once";
  roster.announce(1, 3, {of(1)});
  EXPECT_FALSE(roster.waits_for_some(3)) << "what it still says is ignored";
}

TEST(Roster, AUnitThatLostAllClientsIsReadyAndEmpty) {
  const PlanIndex plan = three_clients();
  Roster roster(plan);
  for (std::uint32_t client = 0; client < 3; ++client) EXPECT_TRUE(roster.drop(client, 4));
  EXPECT_EQ(roster.ready(3), nullptr);
  ASSERT_NE(roster.ready(4), nullptr);
  EXPECT_TRUE(roster.ready(5)->said.empty());
}

TEST(Roster, ADropOfWhatWasAnnouncedIsRefused) {
  const PlanIndex plan = three_clients();
  Roster roster(plan);
  roster.announce(1, 2, {of(1)});
  EXPECT_THROW((void)roster.drop(1, 2), PeerError);
}

TEST(Roster, AnnouncementsThatCannotBeTrueAreRefusedByName) {
  const PlanIndex plan = three_clients();
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  struct Lie {
    std::function<void(Announcement&)> change;
    const char* expected;
  };
  const std::vector<Lie> lies = {
      {[](Announcement& said) { said.kept = -1; }, "-1 kept weights (0 to 32 are possible)"},
      {[](Announcement& said) { said.kept = 33; }, "33 kept weights"},
      {[](Announcement& said) { said.kept = 0; }, "largest value of 1.5 among 0 weights"},
      {[&](Announcement& said) { said.largest = infinity; }, "largest value of inf"},
      {[&](Announcement& said) { said.largest = nan; }, "largest value of nan"},
      {[](Announcement& said) { said.largest = -1; }, "largest value of -1"},
      {[&](Announcement& said) { said.largest_diagonal = infinity; }, "diagonal element of inf"},
      {[](Announcement& said) { said.largest_diagonal = 1; }, "diagonal element of 1"},  // it carries none
      {[](Announcement& said) { said.report.kept_zeros = -5; }, "a report with an impossible number"},
      {[](Announcement& said) { said.client = 0; }, "something that the plan does not expect"},  // of rank 0
      {[](Announcement& said) { said.client = 99; }, "something that the plan does not expect"},
  };
  for (const Lie& lie : lies) {
    Roster roster(plan);
    Announcement said = of(1);
    lie.change(said);
    const std::string thrown = thrown_by([&] { roster.announce(1, 3, {said}); });
    EXPECT_THAT(thrown, testing::StartsWith("6: rank 1 announced")) << lie.expected;
    EXPECT_THAT(thrown, HasSubstr(lie.expected));
    EXPECT_THAT(thrown, HasSubstr(fmt::format("client {}'s update", said.client)));
    EXPECT_THAT(thrown, HasSubstr("model.layers.1.matrix1.weight"));
  }
}

TEST(Roster, AnnouncingTwiceOrOutsideThePlanIsRefused) {
  const PlanIndex plan = three_clients();
  Roster roster(plan);
  roster.announce(1, 1, {of(1)});
  EXPECT_THAT(thrown_by([&] { roster.announce(1, 1, {of(1)}); }), HasSubstr("twice"));
  roster.announce(0, 1, {of(0), of(2)});
  EXPECT_THAT(thrown_by([&] { roster.announce(1, 1, {of(1)}); }), HasSubstr("twice")) << "ready";
  EXPECT_THAT(thrown_by([&] { roster.announce(1, 6, {of(1)}); }), HasSubstr("unit 6 of a plan of 6"));
}

TEST(Roster, UnitsAreCompletedInOrderAndNotAskedForAgain) {
  const PlanIndex plan = three_clients();
  Roster roster(plan);
  EXPECT_THROW(roster.completed(1), LogicError);
  roster.announce(0, 0, {of(0), of(2)});
  roster.announce(1, 0, {of(1)});
  EXPECT_NE(roster.ready(0), nullptr);
  roster.completed(0);
  EXPECT_THROW((void)roster.ready(0), LogicError);
  EXPECT_EQ(roster.ready(1), nullptr);
}

TEST(DueList, ClientsDeliverInOrderAndFinishWantsAll) {
  const PlanIndex plan = three_clients();
  DueList due(plan, 0);
  EXPECT_THAT(due.first_missing({}), HasSubstr("client 0 had delivered model.layers.0.matrix0.weight"));
  EXPECT_TRUE(due.deliver(0, 0));
  EXPECT_THROW((void)due.deliver(2, 0), LogicError);
  EXPECT_THROW((void)due.deliver(0, 1), LogicError) << "a client of rank 1";
  for (std::size_t index = 1; index < 6; ++index) EXPECT_TRUE(due.deliver(index, 0));
  EXPECT_THAT(due.first_missing({}), HasSubstr("client 2"));
  for (std::size_t index = 0; index < 2; ++index) EXPECT_TRUE(due.deliver(index, 2));
  EXPECT_EQ(due.first_missing(1), "") << "stopped before block 1";
  EXPECT_THAT(due.first_missing(2), HasSubstr("client 2 had delivered model.layers.1.matrix0.weight"));
}

TEST(DueList, NothingIsDueOfADroppedClient) {
  const PlanIndex plan = three_clients();
  DueList due(plan, 0);
  EXPECT_TRUE(due.anybody_left());
  EXPECT_TRUE(due.deliver(0, 0));
  EXPECT_THROW((void)due.drop(0, 0), LogicError) << "it has delivered some of block 0";
  EXPECT_THROW((void)due.drop(0, 1), LogicError) << "it has not delivered all of block 0";
  EXPECT_TRUE(due.deliver(1, 0));
  EXPECT_THROW((void)due.drop(0, 2), LogicError);
  EXPECT_FALSE(due.is_dropped(0));
  EXPECT_TRUE(due.drop(0, 1));
  EXPECT_TRUE(due.is_dropped(0));
  EXPECT_FALSE(due.drop(0, 1)) << "once";
  EXPECT_FALSE(due.deliver(2, 0)) << "to be discarded";
  EXPECT_TRUE(due.anybody_left());
  due.drop_late(2);
  EXPECT_FALSE(due.anybody_left());
  EXPECT_EQ(due.first_missing({}), "");
  EXPECT_THROW((void)due.drop(1, 0), LogicError) << "a client of rank 1";
  EXPECT_THROW((void)due.is_dropped(1), LogicError);
  EXPECT_THROW(due.drop_late(1), PeerError);
  EXPECT_FALSE(DueList(plan, 5).anybody_left()) << "a rank without clients";
}

}  // namespace
}  // namespace fedspallm::comm
