// SPDX-License-Identifier: Apache-2.0
// One rank's watchdog thread with the test in the place of all other ranks: strangers, a thousand ranks, and
// who speaks when hubs are lost. The process that ends is a child of the test.
#include "comm/watchdog/watchdog_thread.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>

namespace fedspallm::comm::watchdog {
namespace {

using testing::ExitedWithCode;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr Tokens kTokens{{11, 12}, {13, 14}};
constexpr std::chrono::seconds kLimit{60};
constexpr int kLeft = static_cast<int>(ExitStatus::peer_lost);
constexpr int kStopped = static_cast<int>(ExitStatus::stopped);

Job job_of(int rank, int ranks, std::vector<int> hubs, double lost = 300) {
  Job job;
  job.rank = rank;
  // The processes are of no node of ours: nobody is killed.
  for (int other = 0; other < ranks; ++other)
    job.roster.push_back({"host", {"host", "elsewhere", 100 + other, 1}});
  job.hubs = std::move(hubs);
  job.tokens = kTokens;
  job.options.phases = {"setup", "pruning"};
  job.options.lost_seconds = lost;
  job.options.stuck_seconds = 600;
  job.options.advice = "";
  return job;
}

/// The next frame of this kind; others are passed over. Nothing when the connection closed first.
std::optional<Frame> await(Link& link, Kind kind) {
  bool open = true;
  for (;;) {
    while (auto frame = link.next()) {
      if (frame->kind == kind) return frame;
    }
    if (!open) return std::nullopt;
    pollfd item{link.fd(), POLLIN, 0};
    if (poll(&item, 1, 60'000) != 1) throw std::runtime_error("nothing came");
    open = link.receive();
  }
}

/// A hub under test, and the way to it.
struct Hub {
  explicit Hub(Job job)
      : listener(true), address(listener.address()), watcher(std::move(job), std::move(listener)) {}
  Listener listener;
  HubAddress address;
  Watcher watcher;
  Link call(int rank, int hub = 0) {
    return reach(address, {kTokens.caller, rank, hub}, kTokens.answer, kLimit);
  }
};

Report at_the_end() {
  return {State::finishing, 1, 9, 0};
}

/// Two connected ends: one for the thread under test, one for the test.
struct Pair {
  Pair() {
    const Listener listener(true);
    std::jthread answer([&] {
      Socket caller;
      while (!caller) caller = listener.accept();
      own.emplace(std::move(caller));
      (void)await(*own, Kind::hello);
      own->send(encode_welcome(kTokens.answer));
    });
    theirs.emplace(reach(listener.address(), {kTokens.caller, 1, 0}, kTokens.answer, kLimit));
  }
  std::optional<Link> own, theirs;
};

TEST(WatchdogThread, AHubServesAThousandRanksWithOneThread) {
  constexpr int kRanks = 1001;
  allow_descriptors(2 * kRanks + 100);
  Hub hub(job_of(0, kRanks, {0}));
  std::vector<Link> links;
  for (int rank = 1; rank < kRanks; ++rank) links.push_back(hub.call(rank));
  hub.watcher.everybody_is_here();
  for (Link& link : links) EXPECT_TRUE(await(link, Kind::report).has_value());
  for (Link& link : links) link.send(encode_report(at_the_end()));
  hub.watcher.finish(std::nullopt);
  for (Link& link : links) {
    EXPECT_TRUE(await(link, Kind::done).has_value());
    EXPECT_TRUE(await(link, Kind::goodbye).has_value());
  }
}

TEST(WatchdogThread, StrangersAreSentAwayAndChangeNothing) {
  Hub hub(job_of(0, 2, {0}));
  for (const Hello& hello : {Hello{{1, 2}, 1, 0}, Hello{kTokens.caller, 1, 1}, Hello{kTokens.caller, 0, 0},
                             Hello{kTokens.caller, 2, 0}, Hello{kTokens.answer, 1, 0}})
    EXPECT_THROW((void)reach(hub.address, hello, kTokens.answer, kLimit), LaunchError);
  Link rank1 = hub.call(1);
  rank1.send(encode_report(at_the_end()));
  hub.watcher.finish(std::nullopt);
  EXPECT_TRUE(await(rank1, Kind::done).has_value());
}

TEST(WatchdogThread, ARankMayCallAgain) {
  Hub hub(job_of(0, 2, {0}));
  Link first = hub.call(1);
  Link second = hub.call(1);
  EXPECT_FALSE(await(first, Kind::done).has_value());  // closed, and no loss
  second.send(encode_report(at_the_end()));
  hub.watcher.finish(std::nullopt);
  EXPECT_TRUE(await(second, Kind::done).has_value());
}

TEST(WatchdogThread, LeavingSaysGoodbyeAndWaitsForNobody) {
  Hub hub(job_of(0, 2, {0}));
  Link link = hub.call(1);
  hub.watcher.leave();
  EXPECT_TRUE(await(link, Kind::goodbye).has_value());
}

TEST(WatchdogThread, AHubWithoutDescriptorsSaysSoAndServesWhoWaitsLater) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizers look at memory through a pipe, for which there would be no descriptor";
#endif
  Hub hub(job_of(0, 2, {0}, 1));
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  Socket next(dup(STDERR_FILENO));  // the lowest number that is free
  rlimit low = before;
  low.rlim_cur = static_cast<rlim_t>(next.get()) + 1;
  next.reset();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  std::optional<Link> rank1;
  std::jthread caller([&] { rank1.emplace(hub.call(1)); });  // gets the last one
  while (hub.watcher.refusal().empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const std::string said = hub.watcher.refusal();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_THAT(said, HasSubstr(fmt::format("Too many open files (this process may have {})", low.rlim_cur)));
  caller.join();
  ASSERT_TRUE(rank1.has_value());
  rank1->send(encode_report(at_the_end()));
  hub.watcher.finish(std::nullopt);
  EXPECT_EQ(hub.watcher.refusal(), "");
}

TEST(WatchdogThread, TheEndWithoutFinishIsNoGoodbye) {
  std::optional<Link> link;
  {
    Hub hub(job_of(0, 2, {0}));
    link.emplace(hub.call(1));
  }
  EXPECT_FALSE(await(*link, Kind::goodbye).has_value());
}

class WatchdogEnd : public testing::Test {
 protected:
  WatchdogEnd() { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

[[noreturn]] void wait_for_the_end() {
  std::this_thread::sleep_for(kLimit);
  std::fputs("the watchdog did nothing\n", stderr);
  std::_Exit(1);
}

TEST_F(WatchdogEnd, AHubNamesTheRankThatItLost) {
  const auto story = [] {
    Hub hub(job_of(0, 3, {0}));
    std::optional<Link> rank2(hub.call(2));
    rank2->send(encode_report({State::working, 1, 4, 0}));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    rank2.reset();
    wait_for_the_end();
  };
  EXPECT_EXIT(story(), ExitedWithCode(kLeft), "error: rank 2 on host is lost in pruning, block 4");
}

TEST_F(WatchdogEnd, ADeputyNamesRankZero) {
  const auto story = [] {
    Hub deputy(job_of(1, 4, {0, 1, 2}));
    Pair rank0;
    deputy.watcher.adopt(0, std::move(*rank0.theirs));
    rank0.own->send(encode_report({State::working, 1, 7, 0}));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    rank0.own.reset();
    wait_for_the_end();
  };
  EXPECT_EXIT(story(), ExitedWithCode(kLeft), "error: rank 0 on host is lost in pruning, block 7");
}

TEST_F(WatchdogEnd, ARankThatIsToldLeavesQuietly) {
  const auto story = [] {
    Watcher rank3(job_of(3, 4, {0}), std::nullopt);
    Pair rank0;
    rank3.adopt(0, std::move(*rank0.theirs));
    rank0.own->send(encode_end({Loss::Cause::silent, 2, {State::working, 1, 7, 0}, 31, ""}));
    wait_for_the_end();
  };
  EXPECT_EXIT(story(), ExitedWithCode(kLeft), IsEmpty());
}

TEST_F(WatchdogEnd, OnlyAHubIsBelieved) {
  const auto story = [] {
    Hub hub(job_of(0, 2, {0}));
    Link rank1 = hub.call(1);
    rank1.send(encode_end({Loss::Cause::silent, 0, {}, 31, ""}) + encode_bare(Kind::done) +
               encode_report(at_the_end()));
    hub.watcher.finish(std::nullopt);
    std::fputs("a good end", stderr);
    std::_Exit(0);
  };
  EXPECT_EXIT(story(), ExitedWithCode(0), "a good end");
}

TEST_F(WatchdogEnd, AHubThatStopsTakesTheOthersAlong) {
  const auto story = [] {
    Hub hub(job_of(0, 2, {0}));
    Link rank1 = hub.call(1);
    std::thread([&] {
      const auto end = await(rank1, Kind::end);
      const bool right =
          end && decode_end(*end).cause == Loss::Cause::stopped && decode_end(*end).text == "enough";
      std::fputs(right ? "told of it\n" : "not told\n", stderr);
    }).detach();
    hub.watcher.stop("enough");
    wait_for_the_end();
  };
  EXPECT_EXIT(story(), ExitedWithCode(kStopped), "fedspallm: enough \\(rank 0 on host, in setup\\)\n");
}

TEST_F(WatchdogEnd, ARankThatStopsTellsAHubWhy) {
  const auto story = [] {
    Watcher rank3(job_of(3, 4, {0}), std::nullopt);
    Pair rank0;
    rank3.adopt(0, std::move(*rank0.theirs));
    std::thread([&] {
      const auto why = await(*rank0.own, Kind::failure);
      const auto report = await(*rank0.own, Kind::report);
      if (why && report && decode_report(*report).state == State::stopped)
        rank0.own->send(encode_end({Loss::Cause::stopped, 3, {}, 0, why->body}));
    }).detach();
    rank3.stop("enough");
    wait_for_the_end();
  };
  EXPECT_EXIT(story(), ExitedWithCode(kStopped), IsEmpty());  // the hub speaks
}

TEST(WatchdogThread, WithoutAnAnswerAStopReturns) {
  Watcher rank3(job_of(3, 4, {0}), std::nullopt);
  Pair rank0;
  rank3.adopt(0, std::move(*rank0.theirs));
  rank3.stop("enough");
  const auto why = await(*rank0.own, Kind::failure);
  EXPECT_TRUE(why && why->body == "enough") << "the hub was told, though it says nothing";
  rank3.leave();
}

TEST_F(WatchdogEnd, WhenNoHubIsLeftOneRankOfTheNodeSpeaks) {
  const auto story = [](int rank) {
    Watcher watcher(job_of(rank, 5, {0, 1, 2}), std::nullopt);
    std::vector<Pair> hubs(3);
    for (int hub = 0; hub < 3; ++hub) {
      watcher.adopt(hub, std::move(*hubs[static_cast<std::size_t>(hub)].theirs));
      hubs[static_cast<std::size_t>(hub)].own->send(encode_report({State::working, 1, hub, 0}));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    hubs.clear();
    wait_for_the_end();
  };
  EXPECT_EXIT(story(3), ExitedWithCode(kLeft), "error: rank [012] on host is lost in pruning");
  EXPECT_EXIT(story(4), ExitedWithCode(kLeft), IsEmpty());
}

TEST_F(WatchdogEnd, WhenDeputiesDoNotSpeakTheRankEndsByItself) {
  const auto story = [] {
    Watcher rank2(job_of(2, 3, {0, 1}), std::nullopt);
    Pair rank0;
    Pair rank1;  // stays connected and says nothing
    rank2.adopt(0, std::move(*rank0.theirs));
    rank2.adopt(1, std::move(*rank1.theirs));
    rank0.own.reset();
    wait_for_the_end();
  };
  EXPECT_EXIT(story(), ExitedWithCode(kLeft), HasSubstr("rank 0 on host is lost"));
}

TEST_F(WatchdogEnd, ASilentHubIsLostAfterTheLimit) {
  const auto story = [] {
    Hub deputy(job_of(1, 2, {0, 1}, 0.5));
    Pair rank0;
    deputy.watcher.adopt(0, std::move(*rank0.theirs));
    rank0.own->send(encode_report({}));
    wait_for_the_end();
  };
  EXPECT_EXIT(story(), ExitedWithCode(kLeft),
              "rank 0 on host is lost in setup: no sign of life for (0\\.[5-9]|[1-9][0-9]*\\.[0-9]) s");
}

}  // namespace
}  // namespace fedspallm::comm::watchdog
