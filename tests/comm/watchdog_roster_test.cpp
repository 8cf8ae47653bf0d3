// SPDX-License-Identifier: Apache-2.0
// Who is a hub, who speaks, and what a person is told.
#include "comm/watchdog/watchdog_roster.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedspallm::comm::watchdog {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Roster on_hosts(const std::vector<std::string>& hosts) {
  Roster roster;
  for (const std::string& host : hosts)
    roster.push_back({host, {host, "boot", static_cast<std::int64_t>(roster.size()) + 100, 7}});
  return roster;
}

TEST(WatchdogRoster, HubsAreOnDifferentHostsWhereThereAreSoMany) {
  EXPECT_THAT(choose_hubs(on_hosts({"a"})), ElementsAre(0));
  EXPECT_THAT(choose_hubs(on_hosts({"a", "a"})), ElementsAre(0, 1));
  EXPECT_THAT(choose_hubs(on_hosts({"a", "a", "a", "a"})), ElementsAre(0, 1, 2));
  EXPECT_THAT(choose_hubs(on_hosts({"a", "a", "a", "b", "b", "b"})), ElementsAre(0, 1, 3));
  EXPECT_THAT(choose_hubs(on_hosts({"a", "a", "b", "b", "c", "c", "d"})), ElementsAre(0, 2, 4));
  EXPECT_THAT(choose_hubs(on_hosts({"a", "b", "a", "b"})), ElementsAre(0, 1, 2));
}

TEST(WatchdogRoster, TheLowestRankOfANodeThatIsNoHubSpeaksForIt) {
  const Roster roster = on_hosts({"a", "a", "b", "b", "b", "a"});
  const std::vector<int> hubs = {0, 1, 2};
  EXPECT_TRUE(speaks_for_node(roster, hubs, 3));
  EXPECT_FALSE(speaks_for_node(roster, hubs, 4));
  EXPECT_TRUE(speaks_for_node(roster, hubs, 5));
}

TEST(WatchdogRoster, TablesGoThereAndBack) {
  const Member member{"node1", {"node1.site", "0f3a pid:[4026531836]", 123456, 18446744073709551615U}};
  EXPECT_EQ(decode_member(encode_member(member)), member);
  const HubAddress address{{"10.0.0.1", "2001:db8::1", "127.0.0.1"}, 65535};
  const HubAddress back = decode_address(encode_address(address));
  EXPECT_EQ(back.hosts, address.hosts);
  EXPECT_EQ(back.port, address.port);
  const std::vector<std::string> lines = {"one", "", "three"};
  EXPECT_EQ(split_lines(join_lines(lines)), lines);
}

TEST(WatchdogRoster, WhatIsNoTableIsRefused) {
  for (const std::string text : {"", "a\tb\tc\t1", "a\tb\tc\tx\t1", "a\tb\tc\t1\t2x", "a\tb\tc\t1\t2\t3"})
    EXPECT_THROW((void)decode_member(text), PeerError) << text;
  EXPECT_THROW((void)decode_address(""), PeerError);
  EXPECT_THROW((void)decode_address("port\t127.0.0.1"), PeerError);
}

struct Words {
  Verdict verdict;
  std::vector<std::string> expected;
};

TEST(WatchdogRoster, MessagesNameRankHostPlaceTimeAndWhatToDo) {
  WatchdogOptions options;
  options.phases = {"setup", "pruning"};
  options.advice = "Do this.";
  const Roster roster = on_hosts({"a", "b"});
  const Report place{State::working, 1, 17, 0};
  const std::vector<Words> cases = {
      {{Loss::Cause::closed, 1, place, 0.46, ""},
       {"rank 1 on b is lost in pruning, block 17: ", "killed or crashed", "0.5 s ago"}},
      {{Loss::Cause::silent, 0, place, 30.2, ""},
       {"rank 0 on a is lost in pruning, block 17: ", "no sign of life for 30.2 s (limit 30 s)", "stopped"}},
      {{Loss::Cause::failed, 1, place, 5, "disk full"},
       {"rank 1 on b left pruning, block 17 5.0 s ago", "do not share: disk full."}},
      {{Loss::Cause::stuck, 1, place, 601, ""},
       {"rank 1 on b is stuck in pruning, block 17: no rank made progress within 600 s", "for 601.0 s"}},
      {{Loss::Cause::silent, 0, {State::working, 0, -1, 0}, 31, ""}, {"rank 0 on a is lost in setup: "}},
  };
  for (const Words& item : cases) {
    const Loss loss = describe(item.verdict, roster, options);
    for (const std::string& fragment : item.expected) EXPECT_THAT(loss.message, HasSubstr(fragment));
    EXPECT_TRUE(loss.message.ends_with(" Do this.")) << loss.message;
    EXPECT_EQ(loss.rank, item.verdict.rank);
    EXPECT_EQ(loss.cause, item.verdict.cause);
    EXPECT_EQ(loss.seconds, item.verdict.seconds);
  }
}

TEST(WatchdogRoster, AStopIsToldWithoutAdvice) {
  WatchdogOptions options;
  options.phases = {"setup", "pruning"};
  const Loss loss = describe({Loss::Cause::stopped, 1, {State::stopped, 1, 17, 0}, 0, "leaving at once"},
                             on_hosts({"a", "b"}), options);
  EXPECT_EQ(loss.message, "leaving at once (rank 1 on b, in pruning, block 17)");
  EXPECT_EQ(loss.status(), ExitStatus::stopped);
  EXPECT_EQ(describe({}, on_hosts({"a"}), options).status(), ExitStatus::peer_lost);
}

TEST(WatchdogRoster, NumbersFromOutsideNameNothingThatDoesNotExist) {
  WatchdogOptions options;
  options.phases = {"setup"};
  const Loss loss =
      describe({Loss::Cause::closed, 99, {State::working, 99, 3, 0}, 1, ""}, on_hosts({"a"}), options);
  EXPECT_EQ(loss.host, "an unknown host");
  EXPECT_EQ(loss.phase, "an unknown phase");
}

}  // namespace
}  // namespace fedspallm::comm::watchdog
