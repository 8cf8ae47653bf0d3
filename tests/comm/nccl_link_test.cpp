// SPDX-License-Identifier: Apache-2.0
// The link of the product over an emulated NCCL (tests/comm/emulation): groups, order, messages to oneself,
// initialization that takes its time or never ends, errors, the end.
#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/exchange_case.hpp"
#include "comm/host_device.hpp"
#include "emulated_nccl.hpp"
#include <algorithm>
#include <numeric>
#include <thread>

namespace fedspallm::comm {
namespace {

using namespace test;  // NOLINT: the tests' own helpers
using testing::HasSubstr;

class NcclLinks : public testing::Test {
 protected:
  NcclLinks() {
    emulation::Nccl& nccl = emulation::nccl();
    nccl.never_ready = nccl.refuse_sends = false;
    nccl.fail_after_groups = -1;
    nccl.groups = nccl.largest_group = nccl.aborted = nccl.destroyed = nccl.communicators = 0;
    ranks_.resize(static_cast<std::size_t>(comm_.size()));
    std::iota(ranks_.begin(), ranks_.end(), 0);
    nccl.ranks = ranks_;
    comm_.barrier();
  }
  [[nodiscard]] ExchangeOptions options() {
    ExchangeOptions options;
    options.transport = Transport::nccl;
    options.device = host_device(comm_);
    options.device->link = make_nccl_link(comm_, ranks_, 0, 20);
    return options;
  }
  /// Moves the link on until it is idle.
  static void drain(DeviceLink& link) {
    while (!link.idle())
      if (!link.poll()) std::this_thread::yield();
  }
  Communicator comm_;
  std::vector<int> ranks_;
};

TEST_F(NcclLinks, CarryAWholeExchangeToTheSerialBits) {
  for (const Placement placement : {Placement::round_robin, Placement::all_on_root, Placement::all_on_last}) {
    const auto plan =
        make_plan({.clients = 5,
                   .placement = placement,
                   .ranks = comm_.size(),
                   .blocks = 4,
                   .shapes = {{5, 40, DType::bf16}, {3, 65, DType::f32}, {64, 64, DType::f16}}});
    const auto outcome = run_exchange(comm_, plan, options(), 3);
    EXPECT_TRUE(comm_.rank() != 0 || outcome.seen == merge_serially(plan));
  }
  EXPECT_EQ(emulation::nccl().communicators, 3);
  EXPECT_EQ(emulation::nccl().destroyed, 3);
  EXPECT_EQ(emulation::nccl().aborted, 0);
}

TEST_F(NcclLinks, ServeOneExchangeAfterTheOther) {
  const ExchangeOptions chosen = options();
  const auto plan = make_plan({.clients = 3, .ranks = comm_.size()});
  for (int round = 0; round < 3; ++round) {
    const auto outcome = run_exchange(comm_, plan, chosen, 0);
    EXPECT_TRUE(comm_.rank() != 0 || outcome.seen == merge_serially(plan));
  }
  EXPECT_EQ(emulation::nccl().communicators, 1);
}

TEST_F(NcclLinks, LeaveOutRanksThatDoNotTakePart) {
  if (comm_.size() < 3) GTEST_SKIP() << "needs three ranks";
  ranks_ = {0, comm_.size() - 1};
  emulation::nccl().ranks = ranks_;
  auto plan = make_plan({.clients = 4, .ranks = comm_.size()});
  for (std::size_t client = 0; client < 4; ++client) plan.rank_of_client[client] = ranks_[client % 2];
  const ExchangeOptions chosen = options();
  const bool takes_part = comm_.rank() == 0 || comm_.rank() == comm_.size() - 1;
  EXPECT_EQ(chosen.device->link != nullptr, takes_part);
  const auto outcome = run_exchange(comm_, plan, chosen, 0);
  EXPECT_TRUE(comm_.rank() != 0 || outcome.seen == merge_serially(plan));
}

TEST_F(NcclLinks, KeepTheOrderBetweenTwoRanksAndGroupTheRest) {
  const auto link = make_nccl_link(comm_, ranks_, 0, 20);
  constexpr int kMessages = 6;
  std::vector<std::byte> sent(kMessages), received(static_cast<std::size_t>(kMessages * comm_.size()));
  std::vector<int> finished;
  for (int i = 0; i < kMessages; ++i) {
    const auto place = static_cast<std::size_t>(i);
    sent[place] = static_cast<std::byte>(10 * comm_.rank() + i);
    link->send(0, std::span(sent).subspan(place, 1), [&finished, i] { finished.push_back(i); });
    for (int rank = 0; comm_.rank() == 0 && rank < comm_.size(); ++rank)
      link->receive(rank, std::span(received).subspan(static_cast<std::size_t>(rank * kMessages + i), 1),
                    [] {});
  }
  drain(*link);
  EXPECT_EQ(finished.size(), static_cast<std::size_t>(kMessages));
  EXPECT_TRUE(std::is_sorted(finished.begin(), finished.end()));
  if (comm_.rank() != 0) return;
  for (int rank = 0; rank < comm_.size(); ++rank)
    for (int i = 0; i < kMessages; ++i)
      EXPECT_EQ(received[static_cast<std::size_t>(rank * kMessages + i)],
                static_cast<std::byte>(10 * rank + i));
  EXPECT_EQ(emulation::nccl().largest_group, comm_.size() + 1)
      << "a message from each, and the one to itself";
}

TEST_F(NcclLinks, DoNotSendToOneselfBeforeTheReceiverIsKnown) {
  if (comm_.size() > 1) GTEST_SKIP() << "for one rank";
  const auto link = make_nccl_link(comm_, ranks_, 0, 20);
  std::vector<std::byte> from(8, std::byte{5}), to(8);
  bool sent = false;
  link->send(0, from, [&] { sent = true; });
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(link->poll());
  EXPECT_FALSE(link->idle());
  EXPECT_FALSE(sent);
  link->receive(0, to, [] {});
  drain(*link);
  EXPECT_TRUE(sent);
  EXPECT_EQ(to, from);
}

TEST_F(NcclLinks, AreGivenUpAfterATimeLimitOnEveryRank) {
  emulation::nccl().never_ready = true;
  const std::string thrown = thrown_by([&] { (void)make_nccl_link(comm_, ranks_, 0, 0.1); });
  EXPECT_THAT(thrown, testing::StartsWith("6: "));
  EXPECT_THAT(thrown, HasSubstr("did not find each other within 0.1 s"));
  EXPECT_EQ(emulation::nccl().aborted, 1);
}

TEST_F(NcclLinks, TellOfAPeerThatIsGoneAndAbort) {
  if (comm_.size() > 1) GTEST_SKIP() << "the others would learn of it from the watchdog";
  emulation::nccl().fail_after_groups = 2;
  const auto plan = make_plan({.clients = 3, .blocks = 4});
  const std::string thrown = thrown_by([&] { (void)run_exchange(comm_, plan, options(), 0); });
  EXPECT_THAT(thrown, HasSubstr("6: rank 0 on "));
  EXPECT_THAT(thrown, HasSubstr("remote process exited"));
  EXPECT_THAT(thrown, HasSubstr("federation.transport = \"gather\""));
  EXPECT_EQ(emulation::nccl().aborted, 1);
}

TEST_F(NcclLinks, LeaveNoGroupOpenWhenASendIsRefused) {
  if (comm_.size() > 1) GTEST_SKIP() << "for one rank";
  const auto link = make_nccl_link(comm_, ranks_, 0, 20);
  std::vector<std::byte> from(8, std::byte{5}), to(8);
  emulation::nccl().refuse_sends = true;
  link->send(0, from, [] {});
  link->receive(0, to, [] {});
  EXPECT_THAT(thrown_by([&] { (void)link->poll(); }), HasSubstr("NCCL: ncclSend: remote process exited"));
  link->abort();
  EXPECT_EQ(emulation::nccl().aborted, 1);
  EXPECT_TRUE(link->idle());
}

TEST_F(NcclLinks, RefuseWhatIsNoMessage) {
  const auto link = make_nccl_link(comm_, ranks_, 0, 20);
  std::vector<std::byte> bytes(4);
  EXPECT_THROW(link->send(comm_.size(), bytes, [] {}), LogicError);
  EXPECT_THROW(link->send(0, {}, [] {}), LogicError);
  EXPECT_THROW(link->receive(0, {}, [] {}), LogicError);
  EXPECT_TRUE(link->idle());
}

}  // namespace
}  // namespace fedspallm::comm
