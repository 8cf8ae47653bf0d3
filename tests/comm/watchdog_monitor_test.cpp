// SPDX-License-Identifier: Apache-2.0
// The watchdog's judgement, by tables of what was heard when. Limits: lost 10 s, stuck 100 s, succession 2 s.
#include "comm/watchdog/watchdog_monitor.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace fedspallm::comm::watchdog {
namespace {

constexpr Limits kLimits{10, 100, 2};
constexpr double kStart = 1000;
using Cause = Loss::Cause;

/// `phase`, `block`, and seconds without progress.
Report at(std::uint16_t phase, std::int64_t block, double idle = 0, State state = State::working) {
  return {state, phase, block, idle};
}

/// Ranks 0 to 3, all heard at kStart in phase 1, block 5.
Monitor four() {
  const std::vector<int> ranks = {0, 1, 2, 3};
  Monitor monitor(ranks, kLimits, kStart);
  for (const int rank : ranks) monitor.heard(rank, at(1, 5), kStart);
  return monitor;
}

void all_heard(Monitor& monitor, const Report& report, double now) {
  for (int rank = 0; rank < 4; ++rank) monitor.heard(rank, report, now);
}

struct Case {
  std::string name;
  std::function<void(Monitor&)> story;
  double now;
  std::optional<Cause> cause;  // nothing = all is well
  int rank = -1;
  double seconds = 0;
};

void expect_verdict(const Case& item) {
  SCOPED_TRACE(item.name);
  Monitor monitor = four();
  item.story(monitor);
  const auto verdict = monitor.judge(item.now);
  ASSERT_EQ(verdict.has_value(), item.cause.has_value());
  if (!verdict) return;
  EXPECT_EQ(verdict->cause, *item.cause);
  EXPECT_EQ(verdict->rank, item.rank);
  EXPECT_NEAR(verdict->seconds, item.seconds, 1e-9);
}

TEST(WatchdogMonitor, LostRanks) {
  const auto nothing = [](Monitor&) {};
  const auto others_heard = [](Monitor& monitor) {
    for (const int rank : {0, 1, 3}) monitor.heard(rank, at(1, 5), kStart + 9);
  };
  const std::vector<Case> cases = {
      {"all were heard just now", nothing, kStart, std::nullopt},
      {"silence up to the limit is no loss", nothing, kStart + 10, std::nullopt},
      {"one is silent for longer", others_heard, kStart + 10.5, Cause::silent, 2, 10.5},
      {"of several silent ones the longest silent is named",
       [](Monitor& monitor) {
         monitor.heard(0, at(1, 5), kStart + 12);
         monitor.heard(1, at(1, 5), kStart + 1);
         monitor.heard(2, at(1, 5), kStart + 2);
         monitor.heard(3, at(1, 5), kStart + 0.5);
       },
       kStart + 13, Cause::silent, 3, 12.5},
      {"a closed connection is a loss at once", [](Monitor& monitor) { monitor.closed(3, kStart + 1); },
       kStart + 1.5, Cause::closed, 3, 1.5},
      {"of several closed ones the first is named",
       [](Monitor& monitor) {
         monitor.closed(1, kStart + 2);
         monitor.closed(3, kStart + 1);
         monitor.closed(3, kStart + 3);
       },
       kStart + 3, Cause::closed, 3, 3},
      {"closed comes before silent", [](Monitor& monitor) { monitor.closed(3, kStart + 1); }, kStart + 50,
       Cause::closed, 3, 50},
      {"who said goodbye may close and be silent",
       [](Monitor& monitor) {
         monitor.said_goodbye(2);
         monitor.closed(2, kStart + 1);
         for (const int rank : {0, 1, 3}) monitor.heard(rank, at(1, 5), kStart + 20);
       },
       kStart + 20, std::nullopt},
      {"ranks that are not watched change nothing",
       [](Monitor& monitor) {
         monitor.heard(7, at(0, 0, 500), kStart);
         monitor.closed(7, kStart);
         monitor.said_goodbye(-1);
         monitor.failure_text(9, "?");
       },
       kStart + 1, std::nullopt},
  };
  for (const Case& item : cases) expect_verdict(item);
}

TEST(WatchdogMonitor, StuckRanks) {
  const auto places = [](std::vector<Report> reports) {
    return [reports = std::move(reports)](Monitor& monitor) {
      for (std::size_t rank = 0; rank < reports.size(); ++rank)
        monitor.heard(static_cast<int>(rank), reports[rank], kStart + 500);
    };
  };
  const double now = kStart + 500;
  const std::vector<Case> cases = {
      {"one that makes progress keeps all from being stuck",
       places({at(1, 5, 400), at(1, 5, 400), at(1, 6, 99), at(1, 5, 400)}), now, std::nullopt},
      {"up to the limit nobody is stuck",
       places({at(1, 5, 100), at(1, 5, 200), at(1, 5, 200), at(1, 5, 200)}), now, std::nullopt},
      {"the earliest block is blamed, though another one is idle for longer",
       places({at(1, 7, 300), at(1, 6, 150), at(1, 5, 101), at(1, 6, 300)}), now, Cause::stuck, 2, 101},
      {"the earliest phase comes before the earliest block",
       places({at(1, 2, 200), at(0, 9, 150), at(2, 0, 300), at(1, 0, 300)}), now, Cause::stuck, 1, 150},
      {"no block is before block 0", places({at(1, 0, 200), at(1, 0, 200), at(1, -1, 101), at(1, 0, 200)}),
       now, Cause::stuck, 2, 101},
      {"of equal places the longest idle is blamed",
       places({at(1, 5, 200), at(1, 5, 200), at(1, 5, 200), at(1, 5, 201)}), now, Cause::stuck, 3, 201},
      {"of equals in all the lowest is blamed",
       places({at(1, 5, 200), at(1, 5, 200), at(1, 5, 200), at(1, 5, 200)}), now, Cause::stuck, 0, 200},
      {"who waits at the end is not blamed",
       places({at(1, 1, 300, State::finishing), at(1, 5, 200), at(1, 6, 200), at(1, 6, 200)}), now,
       Cause::stuck, 1, 200},
      {"who knows of a failure and does not come to the end is",
       places({at(1, 9, 300, State::failed), at(1, 5, 200, State::told), at(1, 6, 200), at(1, 6, 200)}), now,
       Cause::stuck, 1, 200},
      {"who came to the end just now made progress",
       places({at(1, 9, 1, State::finishing), at(1, 5, 200), at(1, 5, 200), at(1, 5, 200)}), now,
       std::nullopt},
      {"when all wait at the end nobody is stuck",
       places(std::vector<Report>(4, at(1, 9, 300, State::finishing))), now, std::nullopt},
      {"who said goodbye counts no more",
       [&](Monitor& monitor) {
         places({at(1, 5, 1), at(1, 6, 200), at(1, 5, 200), at(1, 6, 200)})(monitor);
         monitor.said_goodbye(0);
       },
       now, Cause::stuck, 2, 200},
      {"idle time goes on between two reports", places(std::vector<Report>(4, at(1, 5, 95))), now + 6,
       Cause::stuck, 0, 101},
  };
  for (const Case& item : cases) expect_verdict(item);
}

TEST(WatchdogMonitor, FailedRanks) {
  const auto fails = [](Monitor& monitor) {
    monitor.failure_text(2, "not finite");
    monitor.heard(2, at(1, 5, 0, State::failed), kStart);
  };
  const auto all_others_live = [&](Monitor& monitor, const Report& report) {
    fails(monitor);
    for (const int rank : {0, 1, 3}) monitor.heard(rank, report, kStart + 11);
    monitor.heard(2, at(1, 5, 11, State::failed), kStart + 11);
  };
  const std::vector<Case> cases = {
      {"the others have time to fail as well", fails, kStart + 10, std::nullopt},
      {"they do not", [&](Monitor& monitor) { all_others_live(monitor, at(1, 5)); }, kStart + 11,
       Cause::failed, 2, 11},
      {"all came to the end",
       [&](Monitor& monitor) { all_others_live(monitor, at(1, 5, 0, State::finishing)); }, kStart + 11,
       std::nullopt},
      {"the others know of it, though they are at work",
       [&](Monitor& monitor) { all_others_live(monitor, at(1, 5, 0, State::told)); }, kStart + 15,
       std::nullopt},
      {"one of the others does not know of it",
       [&](Monitor& monitor) {
         all_others_live(monitor, at(1, 5, 0, State::told));
         monitor.heard(3, at(1, 5), kStart + 11);
       },
       kStart + 11, Cause::failed, 2, 11},
      {"all failed", [&](Monitor& monitor) { all_others_live(monitor, at(1, 5, 0, State::failed)); },
       kStart + 11, std::nullopt},
      {"it is gone before its time is over",
       [&](Monitor& monitor) {
         fails(monitor);
         monitor.closed(2, kStart + 1);
       },
       kStart + 1, Cause::failed, 2, 1},
  };
  for (const Case& item : cases) expect_verdict(item);
}

TEST(WatchdogMonitor, StoppingRanks) {
  const auto stops = [](Monitor& monitor) {
    monitor.failure_text(2, "asked to");
    monitor.heard(2, at(1, 5, 0, State::stopped), kStart + 1);
  };
  const std::vector<Case> cases = {
      {"one that stops is told of at once", stops, kStart + 1, Cause::stopped, 2, 0},
      {"of several the first is named",
       [&](Monitor& monitor) {
         stops(monitor);
         monitor.heard(1, at(1, 5, 0, State::stopped), kStart + 2);
       },
       kStart + 3, Cause::stopped, 2, 2},
      {"stopping comes before a connection that closed earlier",
       [&](Monitor& monitor) {
         monitor.closed(3, kStart);
         stops(monitor);
       },
       kStart + 2, Cause::stopped, 2, 1},
      {"also where its own connection closed before anybody judged",
       [&](Monitor& monitor) {
         stops(monitor);
         monitor.closed(2, kStart + 1);
       },
       kStart + 2, Cause::stopped, 2, 1},
      {"also at the end of the work",
       [&](Monitor& monitor) {
         all_heard(monitor, at(1, 5, 0, State::finishing), kStart);
         stops(monitor);
       },
       kStart + 2, Cause::stopped, 2, 1},
      {"who said goodbye stops nobody",
       [&](Monitor& monitor) {
         stops(monitor);
         monitor.said_goodbye(2);
       },
       kStart + 2, std::nullopt},
  };
  for (const Case& item : cases) expect_verdict(item);
}

TEST(WatchdogMonitor, TheVerdictHasTheLastPlaceAndTheError) {
  Monitor monitor = four();
  monitor.heard(3, at(2, 8), kStart + 1);
  monitor.closed(3, kStart + 2);
  auto verdict = monitor.judge(kStart + 2);
  ASSERT_TRUE(verdict.has_value());
  EXPECT_EQ(verdict->place, at(2, 8));
  EXPECT_EQ(verdict->text, "");

  monitor = four();
  monitor.failure_text(1, "disk full");
  monitor.heard(1, at(2, 9, 0, State::failed), kStart);
  all_heard(monitor, at(2, 9), kStart + 11);  // also rank 1: a later report does not take the failure back
  verdict = monitor.judge(kStart + 11);
  ASSERT_TRUE(verdict.has_value());
  EXPECT_EQ(verdict->rank, 1);
  EXPECT_EQ(verdict->text, "disk full");
}

TEST(WatchdogMonitor, BeforeTheFirstContactNobodyIsLost) {
  const std::vector<int> ranks = {0, 1};
  Monitor monitor(ranks, kLimits, kStart + 20);
  EXPECT_FALSE(monitor.judge(kStart + 30).has_value());
  const auto verdict = monitor.judge(kStart + 30.5);
  ASSERT_TRUE(verdict.has_value());
  EXPECT_EQ(verdict->cause, Cause::silent);
}

TEST(WatchdogMonitor, AllFinishing) {
  Monitor monitor = four();
  EXPECT_FALSE(monitor.all_finishing());
  for (const int rank : {0, 1}) monitor.heard(rank, at(1, 5, 0, State::finishing), kStart);
  monitor.heard(2, at(1, 5, 0, State::failed), kStart);
  EXPECT_FALSE(monitor.all_finishing());
  monitor.heard(3, at(1, 5, 0, State::told), kStart);
  EXPECT_FALSE(monitor.all_finishing());
  monitor.said_goodbye(3);
  EXPECT_TRUE(monitor.all_finishing());
}

struct ChargeCase {
  std::string name;
  int self;
  std::function<void(Monitor&)> story;
  double now;
  int expected;
};

TEST(WatchdogMonitor, TheFirstLivingHubIsInCharge) {
  const std::vector<int> hubs = {0, 1, 2};
  const auto close = [](std::vector<std::pair<int, double>> closings) {
    return [closings = std::move(closings)](Monitor& monitor) {
      for (const auto& [rank, when] : closings) monitor.closed(rank, kStart + when);
    };
  };
  const auto heard_late = [](std::vector<int> ranks) {
    return [ranks = std::move(ranks)](Monitor& monitor) {
      for (const int rank : ranks) monitor.heard(rank, at(1, 5), kStart + 10);
    };
  };
  const std::vector<ChargeCase> cases = {
      {"rank 0 while it lives", 3, close({}), kStart + 1, 0},
      {"rank 0 itself", 0, close({}), kStart + 50, 0},
      {"the next one when it closed", 3, close({{0, 1}}), kStart + 1, 1},
      {"the next one is oneself", 1, close({{0, 1}}), kStart + 1, 1},
      {"the next one when it is silent", 3, heard_late({1, 2}), kStart + 11, 1},
      {"rank 0 up to the limit", 3, heard_late({1, 2}), kStart + 10, 0},
      {"the last one when two are gone", 3, close({{0, 1}, {1, 1}}), kStart + 1, 2},
      {"the second says nothing in its time", 3, close({{0, 1}}), kStart + 3.5, 2},
      {"the second still has time", 3, close({{0, 1}}), kStart + 3, 1},
      {"the third waits for the second", 2, close({{0, 1}}), kStart + 3, 1},
      {"the third takes over from a silent second", 2, close({{0, 1}}), kStart + 3.5, 2},
      {"nobody is left", 3, close({{0, 1}, {1, 1}, {2, 2}}), kStart + 2, -1},
      {"nobody speaks", 3, close({{0, 1}}), kStart + 5.5, -1},
      {"who said goodbye is not lost", 3,
       [](Monitor& monitor) {
         monitor.said_goodbye(0);
         monitor.closed(0, kStart);
       },
       kStart + 5, 0},
  };
  for (const ChargeCase& item : cases) {
    SCOPED_TRACE(item.name);
    Monitor monitor = four();
    item.story(monitor);
    EXPECT_EQ(monitor.in_charge(hubs, item.self, item.now), item.expected);
  }
}

TEST(WatchdogMonitor, PreconditionsAreChecked) {
  const std::vector<int> ranks = {0, 1};
  EXPECT_THROW(Monitor(ranks, Limits{0, 100, 2}, 0), LogicError);
  EXPECT_THROW(Monitor(ranks, Limits{10, -1, 2}, 0), LogicError);
  const Monitor monitor(ranks, kLimits, 0);
  const std::vector<int> hubs = {5};
  EXPECT_THROW((void)monitor.in_charge(hubs, 1, 0), LogicError);
}

TEST(AwakeClock, CountsWhatItWasAwakeFor) {
  AwakeClock clock(50, 2);
  EXPECT_EQ(clock.now(), 0);
  EXPECT_EQ(clock.tick(51), 1);
  EXPECT_EQ(clock.tick(53), 3);
  EXPECT_EQ(clock.tick(3600), 5);  // it slept; a long step counts as the longest one
  EXPECT_EQ(clock.tick(3601), 6);
  EXPECT_EQ(clock.tick(3600), 6);  // never backwards
}

}  // namespace
}  // namespace fedspallm::comm::watchdog
