// SPDX-License-Identifier: Apache-2.0
// A failure of any rank in any state reaches every rank as the same error, leaves no message behind and no
// thread waiting.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/exchange_case.hpp"
#include "comm/host_device.hpp"
#include <chrono>
#include <future>
#include <thread>

namespace fedspallm::comm {
namespace {

using namespace test;  // NOLINT: the tests' own helpers
using testing::HasSubstr;
using testing::StartsWith;

/// What a rank was doing when another one failed.
enum class Moment { before_the_first_submit, between_blocks, amid_large_transfers, in_finish, in_fetch };

class Failing : public testing::TestWithParam<Way> {
 protected:
  [[nodiscard]] ExchangeOptions options() {
    ExchangeOptions options = options_of(GetParam(), comm_);
    options.chunk_bytes = 2048;
    options.window_blocks = 1;
    return options;
  }

  [[nodiscard]] ExchangePlan plan(Moment moment) const {
    const std::int64_t rows = moment == Moment::amid_large_transfers ? 100 : 6;
    return make_plan({.clients = 8,
                      .ranks = comm_.size(),
                      .blocks = 5,
                      .shapes = {{rows, 128, DType::f32}, {3, 128, DType::bf16}}});
  }

  /// The failing rank's part; the others go on until they are told.
  void play(Exchange& exchange, const ExchangePlan& planned, Moment moment, bool failing) const {
    if (moment == Moment::in_fetch) {
      if (failing) return;
      (void)exchange.fetch(1);
      deliver_all(exchange, planned, comm_.rank(), 0);
    } else if (moment == Moment::between_blocks && failing) {
      for (const std::uint32_t client : planned.units[0].clients) {
        if (planned.rank_of_client[client] == comm_.rank())
          exchange.submit(0, make_update(planned, 0, client));
      }
    } else if (!(failing && moment == Moment::before_the_first_submit)) {
      deliver_all(exchange, planned, comm_.rank(), 0);
    }
    if (!failing) exchange.finish();
  }

  /// Every rank must have thrown the same; then the same communicator must carry a whole exchange.
  void expect_same_everywhere(const std::string& own, const std::string& expected) {
    EXPECT_EQ(own, expected);
    const auto planned = make_plan({.clients = 5, .ranks = comm_.size(), .shapes = {{5, 13, DType::bf16}}});
    const auto outcome = run_exchange(comm_, planned, options(), 0);
    if (comm_.rank() == 0) {
      EXPECT_TRUE(outcome.seen == merge_serially(planned));
    }
  }

  Communicator comm_;
};

TEST_P(Failing, ReachesEveryRankFromEachRankInEachState) {
  for (const Moment moment : {Moment::before_the_first_submit, Moment::between_blocks,
                              Moment::amid_large_transfers, Moment::in_finish, Moment::in_fetch}) {
    for (int failing = 0; failing < comm_.size(); ++failing) {
      SCOPED_TRACE(fmt::format("moment {}, rank {} fails", static_cast<int>(moment), failing));
      const auto planned = plan(moment);
      std::string thrown;
      {
        const auto provider = [](std::uint32_t) {
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
          return std::vector<std::byte>(5000);
        };
        Exchange exchange(
            comm_, planned, options(), [](const CompletedUnit&) {}, provider);
        const bool here = comm_.rank() == failing;
        thrown = thrown_by([&] {
          play(exchange, planned, moment, here);
          if (here) exchange.fail(NumericalError("a Hessian is not positive definite"));
          exchange.finish();
        });
        EXPECT_EQ(thrown_by([&] { exchange.finish(); }), thrown) << "later calls throw the same";
        EXPECT_EQ(thrown_by([&] { (void)exchange.fetch(3); }), thrown);
      }
      expect_same_everywhere(
          thrown, fmt::format("7: rank {} on {}: a Hessian is not positive definite", failing, comm_.host()));
    }
  }
}

TEST_P(Failing, IsHeardOfOnEveryRankWhileItsClientThreadIsAtWork) {
  const auto planned = plan(Moment::between_blocks);
  std::promise<void> heard;
  std::string thrown;
  {
    ExchangeOptions hearing = options();
    hearing.on_failure = [&] { heard.set_value(); };
    Exchange exchange(comm_, planned, hearing, [](const CompletedUnit&) {});
    if (comm_.rank() == comm_.size() - 1) exchange.fail(NumericalError("a Hessian is not positive definite"));
    EXPECT_EQ(heard.get_future().wait_for(std::chrono::minutes(2)), std::future_status::ready);
    thrown = thrown_by([&] { exchange.finish(); });
  }
  EXPECT_THAT(thrown, StartsWith(fmt::format("7: rank {} on ", comm_.size() - 1)));
}

TEST_P(Failing, AGoodEndIsNoFailure) {
  const auto planned = plan(Moment::between_blocks);
  bool heard = false;
  {
    ExchangeOptions hearing = options();
    hearing.on_failure = [&] { heard = true; };
    Exchange exchange(comm_, planned, hearing, [](const CompletedUnit&) {});
    deliver_all(exchange, planned, comm_.rank(), 0);
    exchange.finish();
  }
  EXPECT_FALSE(heard);
}

TEST_P(Failing, OfSeveralRanksAtOnceGivesOneErrorEverywhere) {
  for (int repeat = 0; repeat < 10; ++repeat) {
    const auto planned = plan(Moment::between_blocks);
    std::string thrown;
    {
      Exchange exchange(comm_, planned, options(), [](const CompletedUnit&) {});
      exchange.fail(DataError("bad data"));
      thrown = thrown_by([&] { exchange.finish(); });
    }
    const std::string first = comm_.broadcast(thrown);
    EXPECT_THAT(thrown, HasSubstr(": bad data"));
    expect_same_everywhere(thrown, first);
  }
}

TEST_P(Failing, CallbackEndsTheExchangeOnEveryRankWithItsMessage) {
  const auto planned = plan(Moment::between_blocks);
  for (const std::size_t bad : {std::size_t{0}, std::size_t{4}, planned.units.size() - 1}) {
    std::string thrown;
    {
      Exchange exchange(comm_, planned, options(), [&](const CompletedUnit& unit) {
        if (unit.index == bad) throw ResourceError("disk full");
        EXPECT_LT(unit.index, bad) << "no callback after the failing one";
      });
      thrown = thrown_by([&] {
        deliver_all(exchange, planned, comm_.rank(), 0);
        exchange.finish();
      });
    }
    expect_same_everywhere(thrown, fmt::format("4: rank 0 on {}: disk full", comm_.broadcast(comm_.host())));
  }
}

TEST_P(Failing, CallbackWithAForeignExceptionIsReportedToo) {
  const auto planned = plan(Moment::between_blocks);
  std::string thrown;
  {
    Exchange exchange(comm_, planned, options(),
                      [&](const CompletedUnit&) { throw std::runtime_error("odd"); });
    thrown = thrown_by([&] {
      deliver_all(exchange, planned, comm_.rank(), 0);
      exchange.finish();
    });
  }
  expect_same_everywhere(thrown,
                         fmt::format("1: rank 0 on {}: unexpected: odd", comm_.broadcast(comm_.host())));
}

/// The exchange is over, and what it was made of is going: a callback that was under way may still throw.
TEST_P(Failing, CallbackMayThrowWhileTheExchangeIsTakenDown) {
  const auto planned = plan(Moment::between_blocks);
  std::promise<void> called, heard, released;
  std::jthread releasing;
  std::string thrown;
  {
    ExchangeOptions hearing = options();
    hearing.on_failure = [&] { heard.set_value(); };
    Exchange exchange(comm_, planned, hearing, [&](const CompletedUnit&) {
      called.set_value();
      released.get_future().wait();
      throw ResourceError("disk full");
    });
    play(exchange, planned, Moment::between_blocks, /*failing=*/true);
    if (comm_.rank() == 0) {
      called.get_future().wait();
      exchange.fail(NumericalError("a Hessian is not positive definite"));
    }
    heard.get_future().wait();
    thrown = thrown_by([&] { exchange.finish(); });
    releasing = std::jthread([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until only that thread is left
      released.set_value();
    });
  }
  expect_same_everywhere(thrown, fmt::format("7: rank 0 on {}: a Hessian is not positive definite",
                                             comm_.broadcast(comm_.host())));
}

TEST_P(Failing, ProviderEndsTheExchangeOnEveryRank) {
  const auto planned = plan(Moment::between_blocks);
  std::string thrown;
  {
    Exchange exchange(
        comm_, planned, options(), [](const CompletedUnit&) {},
        [](std::uint32_t) -> std::vector<std::byte> { throw DataError("no such block"); });
    thrown = thrown_by([&] { (void)exchange.fetch(9); });
  }
  expect_same_everywhere(thrown,
                         fmt::format("2: rank 0 on {}: no such block", comm_.broadcast(comm_.host())));
}

TEST_P(Failing, FetchWithoutAProviderIsOurDefectAndSaysSo) {
  std::string thrown;
  {
    Exchange exchange(comm_, plan(Moment::in_fetch), options(), [](const CompletedUnit&) {});
    thrown = thrown_by([&] { (void)exchange.fetch(0); });
  }
  EXPECT_THAT(thrown, HasSubstr("without a provider"));
  expect_same_everywhere(thrown, comm_.broadcast(thrown));
}

TEST_P(Failing, LeavingAnUnfinishedExchangeFailsItForTheOthers) {
  for (int leaving = 0; leaving < comm_.size(); ++leaving) {
    const auto planned = plan(Moment::between_blocks);
    std::string thrown = "left";
    {
      Exchange exchange(comm_, planned, options(), [](const CompletedUnit&) {});
      if (comm_.rank() != leaving) {
        thrown = thrown_by([&] {
          deliver_all(exchange, planned, comm_.rank(), 0);
          exchange.finish();
        });
      }
    }
    const std::string told =
        fmt::format("6: rank {} on {}: left an exchange before it was finished", leaving, comm_.host());
    expect_same_everywhere(thrown, comm_.rank() == leaving ? "left" : told);
  }
}

TEST_P(Failing, FinishBeforeAllIsDeliveredNamesClientAndUnit) {
  const auto planned = plan(Moment::between_blocks);
  std::string thrown;
  {
    Exchange exchange(comm_, planned, options(), [](const CompletedUnit&) {});
    thrown = thrown_by([&] {
      if (comm_.rank() != comm_.size() - 1) deliver_all(exchange, planned, comm_.rank(), 0);
      exchange.finish();
    });
  }
  EXPECT_THAT(thrown,
              HasSubstr(fmt::format("finish() before client {} had delivered model.layers.0.matrix0.weight",
                                    comm_.size() - 1)));
  expect_same_everywhere(thrown, comm_.broadcast(thrown));
}

TEST_P(Failing, SubmitOfANonFiniteValueNamesClientAndUnit) {
  const auto planned = plan(Moment::between_blocks);
  std::string thrown;
  {
    Exchange exchange(comm_, planned, options(), [](const CompletedUnit&) {});
    const auto client = static_cast<std::uint32_t>(comm_.rank());
    auto update = make_update(planned, 0, client);
    update.hessian_diagonal[2] = std::numeric_limits<float>::quiet_NaN();
    thrown = thrown_by([&] { exchange.submit(0, update); });
    exchange.fail(DataError("done"));
  }
  EXPECT_THAT(thrown, StartsWith("7: "));
  EXPECT_THAT(thrown,
              HasSubstr(fmt::format("client {}'s update of model.layers.0.matrix0.weight", comm_.rank())));
}

INSTANTIATE_TEST_SUITE_P(Exchange, Failing,
                         testing::Values(Way::gather, Way::reduce, Way::nccl, Way::owners, Way::nodes),
                         [](const auto& tested) { return name_of(tested.param); });

TEST(Beginning, FailsOnEveryRankWhereOneRankHasNoMemoryForIt) {
  Communicator comm;
  const auto planned = make_plan({.clients = 4, .ranks = comm.size(), .shapes = {{5, 13, DType::bf16}}});
  const auto state = std::make_shared<HostDeviceState>();
  ExchangeOptions options;
  options.transport = Transport::nccl;
  options.device = host_device(comm, state);
  state->full = comm.rank() == 0;
  const std::string thrown =
      thrown_by([&] { Exchange(comm, planned, options, [](const CompletedUnit&) {}); });
  EXPECT_EQ(thrown, fmt::format("4: rank 0 on {}: the device's memory is full", comm.host()));
  state->full = false;
  EXPECT_EQ(thrown_by([&] {
              Exchange exchange(comm, planned, options, [](const CompletedUnit&) {});
              deliver_all(exchange, planned, comm.rank(), 0);
              exchange.finish();
            }),
            "");
}

TEST(Beginning, FailsOnEveryRankWhereOneRanksArgumentsAreWrong) {
  Communicator comm;
  const auto planned = make_plan({.clients = 4, .ranks = comm.size(), .shapes = {{5, 13, DType::bf16}}});
  ExchangeOptions options;
  if (comm.rank() == comm.size() - 1) options.window_blocks = 0;
  const std::string thrown =
      thrown_by([&] { Exchange(comm, planned, options, [](const CompletedUnit&) {}); });
  EXPECT_THAT(thrown, HasSubstr("window_blocks >= 1"));
}

TEST(Beginning, RefusesOptionsThatCannotBe) {
  Communicator comm;
  const auto planned = make_plan({.clients = 4, .ranks = comm.size(), .shapes = {{5, 13, DType::bf16}}});
  const auto refusal = [&](auto change, Exchange::OnCompleted on_completed) {
    ExchangeOptions options;
    change(options);
    return thrown_by([&] { Exchange(comm, planned, options, std::move(on_completed)); });
  };
  const auto refused = [&](auto change) { return refusal(change, [](const CompletedUnit&) {}); };
  EXPECT_THAT(refused([](auto& options) { options.chunk_bytes = 0; }), HasSubstr("chunk_bytes >= 1"));
  EXPECT_THAT(refused([](auto& options) { options.message_limit = 0; }), HasSubstr("message_limit"));
  EXPECT_THAT(refused([](auto& options) { options.message_limit = (std::int64_t{1} << 30) + 1; }),
              HasSubstr("message_limit"));
  EXPECT_THAT(refused([](auto& options) { options.transport = Transport::nccl; }),
              HasSubstr("a device port and link"));
  EXPECT_THAT(refused([](auto& options) {
                options.topology = Topology::owners;
                options.transport = Transport::reduce;
              }),
              HasSubstr("owners needs the transport gather"));
  EXPECT_THAT(refused([](auto& options) { options.spread_writing = true; }), HasSubstr("only owners"));
  EXPECT_THAT(refusal([](auto&) {}, nullptr), HasSubstr("has a callback"));
}

TEST(Decoding, ACorruptedUpdateIsABadInputOnEveryRankNamingTheUnit) {
  Communicator comm;
  if (comm.size() == 1) GTEST_SKIP() << "nothing travels";
  const auto planned = make_plan({.clients = 4, .ranks = comm.size(), .shapes = {{5, 13, DType::bf16}}});
  for (const std::size_t place : {std::size_t{0}, std::size_t{70}, std::size_t{140}}) {
    ExchangeOptions options;
    if (comm.rank() == 1)
      options.before_send = [&](std::span<std::byte> bytes) { bytes[place] ^= std::byte{16}; };
    Exchange exchange(comm, planned, options, [](const CompletedUnit&) {});
    const std::string thrown = thrown_by([&] {
      deliver_all(exchange, planned, comm.rank(), 0);
      exchange.finish();
    });
    EXPECT_THAT(thrown, StartsWith("2: rank 0 on "));
    EXPECT_THAT(thrown, HasSubstr("client 1"));
  }
}

}  // namespace
}  // namespace fedspallm::comm
