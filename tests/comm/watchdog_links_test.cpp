// SPDX-License-Identifier: Apache-2.0
// Connections of the watchdog: the right hub is found among addresses, and who cannot be reached is told why.
#include "comm/watchdog/watchdog_links.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "support/expect_error.hpp"
#include <thread>

namespace fedspallm::comm::watchdog {
namespace {

using test::expect_error;

constexpr std::array<std::uint64_t, 2> kCaller = {1, 2}, kAnswer = {3, 4};
constexpr Hello kHello{kCaller, 1, 0};
constexpr std::chrono::seconds kLimit{120};

void wait_readable(int fd) {
  pollfd item{fd, POLLIN, 0};
  ASSERT_EQ(poll(&item, 1, 120'000), 1);
}

/// A hub that answers one caller with `answer` ("" = hangs up).
class OneAnswer {
 public:
  OneAnswer(const Listener& listener, std::string answer)
      : thread_([&listener, answer = std::move(answer)] {
          wait_readable(listener.fd());
          Link link(listener.accept());
          std::optional<Frame> frame;
          while (!frame) {
            wait_readable(link.fd());
            (void)link.receive();
            frame = link.next();
          }
          EXPECT_EQ(decode_hello(*frame).rank, kHello.rank);
          if (!answer.empty()) link.send(answer);
        }) {}

 private:
  std::jthread thread_;
};

/// A port at which nobody listens, nor can while this lives.
class ClosedPort {
 public:
  ClosedPort() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
    EXPECT_EQ(::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  [[nodiscard]] std::uint16_t port() const { return port_; }

 private:
  Socket socket_;
  std::uint16_t port_ = 0;
};

TEST(WatchdogLinks, AHubIsReachedOverItsOwnAddresses) {
  for (const bool this_host_only : {true, false}) {
    const Listener listener(this_host_only);
    ASSERT_FALSE(listener.address().hosts.empty());
    const OneAnswer hub(listener, encode_welcome(kAnswer) + encode_failure("and more"));
    Link link = reach(listener.address(), kHello, kAnswer, kLimit);
    std::optional<Frame> frame;
    while (!(frame = link.next())) {
      wait_readable(link.fd());
      (void)link.receive();
    }
    EXPECT_EQ(frame->body, "and more");
  }
}

TEST(WatchdogLinks, OneHostAloneListensToItselfOnly) {
  EXPECT_EQ(Listener(true).address().hosts, std::vector<std::string>{"127.0.0.1"});
}

TEST(WatchdogLinks, AnAddressThatDoesNotWorkIsPassedOver) {
  const Listener listener(true);
  const OneAnswer hub(listener, encode_welcome(kAnswer));
  EXPECT_NO_THROW((void)reach({{"no address", "127.0.0.2", "127.0.0.1"}, listener.address().port}, kHello,
                              kAnswer, kLimit));
}

TEST(WatchdogLinks, EachAddressThatWasTriedIsNamedWithItsFault) {
  const ClosedPort closed;
  const std::uint16_t port = closed.port();
  expect_error<LaunchError>(
      [&] {
        (void)reach({{"127.0.0.1", "127.0.0.3"}, port}, {kCaller, 1, 5}, kAnswer, kLimit);
      },
      {"rank 5", fmt::format("127.0.0.1 port {} (Connection refused)", port),
       fmt::format("127.0.0.3 port {} (Connection refused)", port), "firewall"});
  expect_error<LaunchError>([&] { (void)reach({{}, port}, kHello, kAnswer, kLimit); }, {"has no address"});
}

TEST(WatchdogLinks, AStrangersAnswerIsNotTaken) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {encode_welcome(kCaller), "another job answers"},
      {encode_bare(Kind::done), "not answered as it should be"},
      {"SSH-2.0-OpenSSH_9.2\r\n", "too long"},
      {"", "the other side closed the connection"},
  };
  for (const auto& [answer, fault] : cases) {
    const Listener listener(true);
    const OneAnswer hub(listener, answer);
    expect_error<LaunchError>([&] { (void)reach(listener.address(), kHello, kAnswer, kLimit); }, {fault});
  }
}

TEST(WatchdogLinks, AHubThatNeverAnswersCostsTheLimit) {
  const Listener listener(true);  // the system accepts for it
  expect_error<LaunchError>(
      [&] { (void)reach(listener.address(), kHello, kAnswer, std::chrono::milliseconds(100)); },
      {"connected, but no answer"});
}

TEST(WatchdogLinks, WhatTheOtherDoesNotReadWaitsAndArrivesLater) {
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()), 0);
  Link writer{Socket(ends[0])};
  Link reader{Socket(ends[1])};
  const std::string text = encode_failure(std::string(4096, 'x'));
  int sent = 0;
  for (; !writer.waiting(); ++sent) writer.send(text);  // no call blocks
  int arrived = 0;
  while (arrived < sent) {
    writer.flush();
    ASSERT_TRUE(reader.receive());
    while (reader.next()) ++arrived;
  }
  EXPECT_FALSE(writer.waiting());
  writer = Link{Socket()};
  EXPECT_FALSE(reader.receive());
}

TEST(WatchdogLinks, AClosedConnectionIsToldAfterItsLastFrame) {
  const Listener listener(true);
  std::optional<Link> link;
  {
    const OneAnswer hub(listener, encode_welcome(kAnswer) + encode_bare(Kind::goodbye));
    link.emplace(reach(listener.address(), kHello, kAnswer, kLimit));
  }
  bool open = true;
  while (open) {
    wait_readable(link->fd());
    open = link->receive();
  }
  const auto frame = link->next();
  ASSERT_TRUE(frame.has_value());
  EXPECT_EQ(frame->kind, Kind::goodbye);
}

TEST(WatchdogLinks, DescriptorsAreAllowedUpToTheHardLimit) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 64;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_NO_THROW(allow_descriptors(65));
  rlimit now{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &now), 0);
  EXPECT_EQ(now.rlim_cur, before.rlim_max) << "others than the watchdog open files as well";
  if (before.rlim_max != RLIM_INFINITY) {
    expect_error<LaunchError>([&] { allow_descriptors(before.rlim_max + 1); },
                              {fmt::format("only {} are allowed", before.rlim_max), "ulimit -Hn"});
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

}  // namespace
}  // namespace fedspallm::comm::watchdog
