// SPDX-License-Identifier: Apache-2.0
// Clients that fail or are late are left out from a block on: the others' merge has the bits that it would
// have had without them.
#include "fedspallm/base/random.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/exchange_case.hpp"
#include "comm/host_device.hpp"
#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>

namespace fedspallm::comm {
namespace {

using namespace test;  // NOLINT: the tests' own helpers
using testing::HasSubstr;
using testing::IsEmpty;
using Drops = std::map<std::uint32_t, std::uint32_t>;  // client -> block

constexpr std::uint32_t kBlocks = 5;

/// As run_exchange() notes it, with nothing for units that nobody delivered.
Exchange::OnCompleted into(Outcome& outcome) {
  return [&outcome](const CompletedUnit& unit) {
    outcome.order.push_back(unit.index);
    if (!was_merged(unit)) {
      EXPECT_TRUE(unit.reports.empty() && unit.diagonal_sums.empty());
      outcome.seen.emplace_back();
    } else {
      outcome.seen.push_back(copy_of(unit));
    }
  };
}

std::uint64_t draw(std::uint64_t seed, std::uint32_t client, std::uint64_t index) {
  return random_bits({.seed = seed, .use = RandomUse::simulation, .client = client}, index);
}

class Dropping : public testing::TestWithParam<Way> {
 protected:
  [[nodiscard]] ExchangeOptions options() {
    ExchangeOptions options = options_of(GetParam(), comm_);
    options.chunk_bytes = 2048;
    return options;
  }
  [[nodiscard]] ExchangePlan plan(bool sampled = false) const {
    return make_plan({.clients = static_cast<std::uint32_t>(comm_.size()) + 2,
                      .ranks = comm_.size(),
                      .blocks = kBlocks,
                      .shapes = {{5, 40, DType::bf16}, {3, 40, DType::f32}, {9, 5, DType::f16}},
                      .sampled = sampled});
  }

  /// A whole exchange in which these clients are dropped; checks what the root saw and was told.
  void expect_merge_of_the_others(const ExchangePlan& planned, const Drops& drops, std::uint64_t seed = 0) {
    Outcome outcome;
    Exchange exchange(comm_, planned, options(), into(outcome));
    const Walk walked =
        walk(exchange, planned, comm_.rank(), {.blocks = kBlocks, .seed = seed, .drops = drops});
    exchange.finish();
    EXPECT_EQ(walked.begun.size(), kBlocks) << "a rank whose clients are dropped may still ask";
    for (std::uint32_t client = 0; client < planned.rank_of_client.size(); ++client) {
      if (planned.rank_of_client[client] != comm_.rank()) continue;
      EXPECT_EQ(exchange.is_dropped(client), drops.contains(client));
    }
    if (comm_.rank() != 0) {
      EXPECT_THAT(exchange.dropped(), IsEmpty());
      return;
    }
    const auto expected = merge_serially(without(planned, drops));
    ASSERT_EQ(outcome.order.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(outcome.order[i], i);
      EXPECT_TRUE(outcome.seen[i] == expected[i]) << "unit " << i;
    }
    Drops told;
    for (const Dropped& dropped : exchange.dropped()) {
      told[dropped.client] = dropped.block;
      EXPECT_EQ(dropped.reason, "bad tokens");
      EXPECT_FALSE(dropped.late);
    }
    EXPECT_EQ(told, drops);
  }
  Communicator comm_;
};

TEST_P(Dropping, EachClientAtEachBlockLeavesTheMergeOfTheOthers) {
  const auto planned = plan();
  for (std::uint32_t client = 0; client < planned.rank_of_client.size(); ++client) {
    for (std::uint32_t block = 0; block < kBlocks; ++block) {
      SCOPED_TRACE(fmt::format("client {} from block {} on", client, block));
      expect_merge_of_the_others(planned, {{client, block}});
    }
  }
}

TEST_P(Dropping, AllClientsLeavesUnitsThatNobodyCovers) {
  const auto planned = plan();
  for (std::uint32_t block = 0; block < kBlocks; ++block) {
    Drops drops;
    for (std::uint32_t client = 0; client < planned.rank_of_client.size(); ++client) drops[client] = block;
    expect_merge_of_the_others(planned, drops);
  }
}

TEST_P(Dropping, AnyClientsAtAnyMomentsLeavesTheMergeOfTheOthers) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    const auto planned = plan(/*sampled=*/seed % 2 == 0);
    Drops drops;
    for (std::uint32_t client = 0; client < planned.rank_of_client.size(); ++client) {
      if (draw(seed, client, 0) % 2 == 0)
        drops[client] = static_cast<std::uint32_t>(draw(seed, client, 1) % kBlocks);
    }
    expect_merge_of_the_others(planned, drops, seed * 100 + static_cast<std::uint64_t>(comm_.rank()));
  }
}

TEST_P(Dropping, GoesTogetherWithAStop) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    const auto planned = plan();
    Drops drops;
    for (std::uint32_t client = 0; client < planned.rank_of_client.size(); ++client) {
      if (draw(seed, client, 0) % 3 == 0)
        drops[client] = static_cast<std::uint32_t>(draw(seed, client, 1) % kBlocks);
    }
    Outcome outcome;
    Exchange exchange(comm_, planned, options(), into(outcome));
    const auto pauses = seed * 100 + static_cast<std::uint64_t>(comm_.rank());
    const Walk walked =
        walk(exchange, planned, comm_.rank(),
             {.blocks = kBlocks, .seed = pauses, .drops = drops, .before_boundary = [&](std::uint32_t block) {
                if (block == 2 && comm_.rank() == static_cast<int>(seed) % comm_.size())
                  exchange.request_stop();
              }});
    exchange.finish();
    const std::uint32_t stop = exchange.stopped_at().value_or(kBlocks);
    EXPECT_EQ(comm_.maximum(stop), stop);
    EXPECT_EQ(walked.stopped.value_or(stop), stop);
    if (comm_.rank() != 0) continue;
    const auto expected = merge_serially(without(planned, drops));
    ASSERT_EQ(outcome.order.size(), 3 * stop);
    for (std::size_t i = 0; i < outcome.order.size(); ++i) {
      EXPECT_EQ(outcome.order[i], i);
      EXPECT_TRUE(outcome.seen[i] == expected[i]) << "unit " << i;
    }
  }
}

TEST_P(Dropping, TheCallbackMayRefuseAUnitThatNobodyCovers) {
  const auto planned = plan();
  Drops drops;
  for (std::uint32_t client = 0; client < planned.rank_of_client.size(); ++client) drops[client] = 1;
  Exchange exchange(comm_, planned, options(), [](const CompletedUnit& unit) {
    if (!was_merged(unit)) throw DataError(fmt::format("unit {} is covered by nobody", unit.index));
  });
  const std::string thrown = thrown_by([&] {
    (void)walk(exchange, planned, comm_.rank(), {.blocks = kBlocks, .drops = drops});
    exchange.finish();
  });
  EXPECT_THAT(thrown, HasSubstr("2: rank 0 on "));
  EXPECT_THAT(thrown, HasSubstr("unit 3 is covered by nobody"));
}

TEST_P(Dropping, AtTheWrongMomentOrRankIsRefused) {
  const auto ranks = static_cast<std::uint32_t>(comm_.size());
  const auto planned = make_plan({.clients = ranks,
                                  .ranks = comm_.size(),
                                  .blocks = kBlocks,
                                  .shapes = {{5, 40, DType::bf16}, {3, 40, DType::f32}}});
  Exchange exchange(comm_, planned, options(), [](const CompletedUnit&) {});
  const auto own = static_cast<std::uint32_t>(comm_.rank());
  EXPECT_THROW(exchange.drop(99, 0, "unknown"), LogicError);
  if (comm_.size() > 1) {
    const std::uint32_t other = own == 0 ? 1 : 0;
    EXPECT_THROW(exchange.drop(other, 0, "of another rank"), LogicError);
    EXPECT_THROW((void)exchange.is_dropped(other), LogicError);
  }
  EXPECT_THROW(exchange.drop(own, 1, "too late a block"), LogicError);
  // To a good end: a rank that failed here would have the others' calls throw, too, wherever they are.
  (void)walk(exchange, planned, comm_.rank(),
             {.blocks = kBlocks, .before_last_submit = [&](std::uint32_t block) {
                if (block > 0) return;
                EXPECT_THROW(exchange.drop(own, 0, "in the middle of the block"), LogicError);
                EXPECT_THROW(exchange.drop(own, 1, "in the middle of the block"), LogicError);
                EXPECT_FALSE(exchange.is_dropped(own));
              }});
  exchange.finish();
  EXPECT_THAT(exchange.dropped(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Exchange, Dropping,
                         testing::Values(Way::gather, Way::reduce, Way::nccl, Way::owners, Way::nodes),
                         [](const auto& tested) { return name_of(tested.param); });

/// The last client is the late one: it comes last on its rank, so that it keeps nobody else waiting there.
class Deadline : public testing::Test {
 protected:
  [[nodiscard]] std::uint32_t late() const {
    return static_cast<std::uint32_t>(planned_.rank_of_client.size()) - 1;
  }
  /// Everybody delivers, by block and client, but the late client waits for `punished` before `unit`.
  void deliver(Exchange& exchange, std::size_t unit, const std::function<bool()>& punished) const {
    for (std::uint32_t block = 0; block < kBlocks; ++block) {
      for (std::uint32_t client = 0; client <= late(); ++client) {
        if (planned_.rank_of_client[client] != comm_.rank()) continue;
        for (std::size_t index = 2 * block; index < 2 * block + 2; ++index) {
          while (client == late() && index == unit && !punished())
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
          exchange.submit(index, make_update(planned_, index, client));
        }
      }
    }
  }
  Communicator comm_;
  const ExchangePlan planned_ = make_plan({.clients = static_cast<std::uint32_t>(comm_.size()) + 2,
                                           .ranks = comm_.size(),
                                           .blocks = kBlocks,
                                           .shapes = {{5, 40, DType::bf16}, {3, 40, DType::f32}}});
};

TEST_F(Deadline, ALateClientFailsTheExchangeByName) {
  ExchangeOptions options;
  options.deadline_seconds = 2;
  Exchange exchange(
      comm_, planned_, options, [](const CompletedUnit&) {},
      [](std::uint32_t) { return std::vector<std::byte>(); });
  const std::string thrown = thrown_by([&] {
    deliver(exchange, 3, [&] {
      (void)exchange.fetch(0);  // throws once the exchange has failed
      return false;
    });
    exchange.finish();
  });
  EXPECT_THAT(thrown, HasSubstr("6: rank 0 on "));
  EXPECT_THAT(thrown, HasSubstr("late in block 1: model.layers.1.matrix1.weight (round 1, block 1)"));
  EXPECT_THAT(thrown,
              HasSubstr(fmt::format("by client {} on rank {}.", late(), planned_.rank_of_client[late()])));
}

TEST_F(Deadline, ALateClientIsDroppedAndTheOthersFinish) {
  ExchangeOptions options;
  options.deadline_seconds = 2;
  options.drop_late = true;
  for (const std::size_t unit : {std::size_t{0}, std::size_t{5}}) {
    Outcome outcome;
    Exchange exchange(comm_, planned_, options, into(outcome));
    deliver(exchange, unit, [&] { return exchange.is_dropped(late()); });
    exchange.finish();
    if (planned_.rank_of_client[late()] == comm_.rank()) {
      EXPECT_TRUE(exchange.is_dropped(late()));
      EXPECT_NO_THROW(exchange.drop(late(), 0, "known already"));
    }
    if (comm_.rank() != 0) continue;
    ExchangePlan left = planned_;  // what it had delivered of the block before counts
    for (std::size_t index = unit; index < left.units.size(); ++index)
      remove_clients(left.units[index], [last = left.units[index].clients.back()](std::uint32_t client) {
        return client == last;
      });
    EXPECT_TRUE(outcome.seen == merge_serially(left));
    const auto dropped = exchange.dropped();
    ASSERT_EQ(dropped.size(), 1U);
    EXPECT_EQ(dropped[0].client, late());
    EXPECT_EQ(dropped[0].block, planned_.units[unit].id.block);
    EXPECT_TRUE(dropped[0].late);
    EXPECT_THAT(dropped[0].reason, HasSubstr(planned_.units[unit].name));
  }
}

TEST_F(Deadline, HowEverItFallsAMergeIsOfExactlyTheClientsItNames) {
  ExchangeOptions options;
  options.drop_late = true;
  for (std::uint64_t seed = 1; seed <= 15; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    options.deadline_seconds = 0.0005 * static_cast<double>(seed);
    Outcome outcome;
    Exchange exchange(comm_, planned_, options, into(outcome));
    deliver_all(exchange, planned_, comm_.rank(), seed * 100 + static_cast<std::uint64_t>(comm_.rank()));
    exchange.finish();
    if (comm_.rank() != 0) continue;
    ASSERT_EQ(outcome.seen.size(), planned_.units.size());
    Drops dropped;
    for (const Dropped& one : exchange.dropped()) dropped[one.client] = one.block;
    ExchangePlan merged = planned_;
    for (std::size_t index = 0; index < merged.units.size(); ++index) {
      PlannedUnit& unit = merged.units[index];
      const ClientList all = std::exchange(unit.clients, outcome.seen[index].clients);
      EXPECT_FALSE(unit.clients.empty()) << "somebody is always in time";
      for (const std::uint32_t client : all) {
        const bool counts = std::count(unit.clients.begin(), unit.clients.end(), client) > 0;
        const auto drop = dropped.find(client);
        const bool in_time = drop == dropped.end() || unit.id.block < drop->second;
        const bool late = drop != dropped.end() && unit.id.block > drop->second;
        EXPECT_FALSE(in_time && !counts);
        EXPECT_FALSE(late && counts);
      }
    }
    EXPECT_TRUE(outcome.seen == merge_serially(merged));
  }
}

TEST_F(Deadline, NobodyIsLateWhoWaitsForTheRoot) {
  ExchangeOptions options;
  options.deadline_seconds = 4;  // more than a busy machine holds a rank up
  options.window_blocks = 1;
  Outcome outcome;
  Exchange exchange(comm_, planned_, options, [&](const CompletedUnit& unit) {
    if (unit.index == 1) std::this_thread::sleep_for(std::chrono::seconds(5));
    outcome.order.push_back(unit.index);
  });
  deliver_all(exchange, planned_, comm_.rank(), 0);
  exchange.finish();
  EXPECT_EQ(outcome.order.size(), comm_.rank() == 0 ? planned_.units.size() : 0);
}

TEST_F(Deadline, IsRefusedWithReduceAndWhenItIsNoTime) {
  ExchangeOptions options;
  options.deadline_seconds = 5;
  options.transport = Transport::reduce;
  const auto construct = [&] { Exchange(comm_, planned_, options, [](const CompletedUnit&) {}); };
  EXPECT_THAT(thrown_by(construct), HasSubstr("a deadline needs the transport gather"));
  options.transport = Transport::gather;
  for (const double seconds :
       {-1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    options.deadline_seconds = seconds;
    EXPECT_THAT(thrown_by(construct), HasSubstr("finite number of seconds"));
  }
}

}  // namespace
}  // namespace fedspallm::comm
