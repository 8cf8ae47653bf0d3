// SPDX-License-Identifier: Apache-2.0
// All ranks stop or save between the same two blocks, whenever and wherever it is asked for; what comes
// before is merged to the usual bits, and every rank hears how far that is.
#include "fedspallm/base/random.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/exchange_case.hpp"
#include "comm/host_device.hpp"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <thread>

namespace fedspallm::comm {
namespace {

using namespace test;  // NOLINT: the tests' own helpers
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

std::uint64_t draw(std::uint64_t seed, int rank, std::uint64_t index) {
  return random_bits({.seed = seed, .use = RandomUse::simulation, .client = static_cast<std::uint32_t>(rank)},
                     index);
}

/// Returns when this rank knows the block before `block` to be merged and called back. Whatever any rank
/// had said to the root before it announced that block was then heard by all.
void wait_until_durable(const Exchange& exchange, std::uint32_t block) {
  while (exchange.durable_block() < block) std::this_thread::sleep_for(std::chrono::microseconds(100));
}

class AgreedBoundaries : public testing::TestWithParam<Way> {
 protected:
  [[nodiscard]] ExchangeOptions options() {
    ExchangeOptions options = options_of(GetParam(), comm_);
    return options;
  }
  [[nodiscard]] CaseOptions blocks_of_two(std::uint32_t blocks) const {
    return {.clients = static_cast<std::uint32_t>(comm_.size()) + 1,
            .ranks = comm_.size(),
            .blocks = blocks,
            .shapes = {{5, 13, DType::bf16}, {3, 13, DType::f32}}};
  }
  [[nodiscard]] int last() const { return comm_.size() - 1; }

  /// The root saw exactly the units before `stop`, in order, with the bits of a serial merge.
  void expect_merged_before(const Outcome& outcome, const ExchangePlan& plan, std::uint32_t stop) const {
    if (comm_.rank() != 0) return;
    const auto expected = merge_serially(plan);
    std::size_t end = 0;
    while (end < plan.units.size() && plan.units[end].id.block < stop) ++end;
    ASSERT_EQ(outcome.order.size(), end);
    for (std::size_t i = 0; i < end; ++i) {
      EXPECT_EQ(outcome.order[i], i);
      EXPECT_TRUE(outcome.seen[i] == expected[i]) << "unit " << i;
    }
  }
  static Exchange::OnCompleted into(Outcome& outcome) {
    return [&outcome](const CompletedUnit& unit) {
      outcome.order.push_back(unit.index);
      outcome.seen.push_back(copy_of(unit));
    };
  }
  void expect_same_everywhere(std::uint32_t value) {
    EXPECT_EQ(comm_.maximum(value), -comm_.maximum(-std::int64_t{value}));
  }
  Communicator comm_;
};

TEST_P(AgreedBoundaries, AStopComesBeforeTheFirstBlockThatNobodyHasBegun) {
  const auto plan = make_plan(blocks_of_two(8));
  for (int asking = 0; asking < comm_.size(); ++asking) {
    Outcome outcome;
    Exchange exchange(comm_, plan, options(), into(outcome));
    const Walk walked = walk(exchange, plan, comm_.rank(),
                             {.blocks = 8,
                              .before_boundary =
                                  [&](std::uint32_t block) {
                                    if (block == 4) wait_until_durable(exchange, 4);
                                  },
                              .before_last_submit =
                                  [&](std::uint32_t block) {
                                    if (block == 3 && comm_.rank() == asking) exchange.request_stop();
                                  }});
    exchange.finish();
    EXPECT_EQ(walked.stopped, 4U);
    EXPECT_THAT(walked.begun, ElementsAre(0, 1, 2, 3));
    EXPECT_THAT(walked.saved, IsEmpty());
    EXPECT_EQ(exchange.stopped_at(), 4U);
    expect_merged_before(outcome, plan, 4);
  }
}

TEST_P(AgreedBoundaries, TheRankThatIsFurthestDecidesAndTheOthersGoOnToIt) {
  if (comm_.size() == 1) GTEST_SKIP() << "needs two ranks";
  auto plan = make_plan(blocks_of_two(9));
  // The last rank's clients deliver block 3 only, and that late: they have begun block 5 by then.
  for (PlannedUnit& unit : plan.units) {
    remove_clients(unit, [&](std::uint32_t client) {
      return plan.rank_of_client[client] == last() && unit.id.block != 3;
    });
  }
  Outcome outcome;
  Exchange exchange(comm_, plan, options(), into(outcome));
  std::optional<std::uint32_t> stopped;
  if (comm_.rank() == last()) {
    wait_until_durable(exchange, 2);  // so that block 5 is within the window
    for (std::uint32_t block = 0; block <= 5; ++block)
      EXPECT_EQ(exchange.at_boundary(block), Boundary::go_on);
    exchange.request_stop();
    for (std::size_t index = 6; index < 8; ++index) {
      for (const std::uint32_t client : plan.units[index].clients) {
        if (plan.rank_of_client[client] == last()) exchange.submit(index, make_update(plan, index, client));
      }
    }
    wait_until_durable(exchange, 4);
    if (exchange.at_boundary(6) == Boundary::stop) stopped = 6;
  } else {
    stopped = walk(exchange, plan, comm_.rank(),
                   {.blocks = 9,
                    .before_boundary =
                        [&](std::uint32_t block) {
                          if (block == 4) wait_until_durable(exchange, 4);
                        }})
                  .stopped;
  }
  exchange.finish();
  EXPECT_EQ(stopped, 6U);
  EXPECT_EQ(exchange.stopped_at(), 6U);
  expect_merged_before(outcome, plan, 6);
}

TEST_P(AgreedBoundaries, ASaveIsToldOnceToEveryRankAndTheRoundGoesOn) {
  const auto plan = make_plan(blocks_of_two(9));
  Outcome outcome;
  Exchange exchange(comm_, plan, options(), into(outcome));
  const Walk walked = walk(exchange, plan, comm_.rank(),
                           {.blocks = 9,
                            .before_boundary =
                                [&](std::uint32_t block) {
                                  if (block % 3 == 0) wait_until_durable(exchange, block);
                                },
                            .before_last_submit =
                                [&](std::uint32_t block) {
                                  if (block == 2 || block == 5) exchange.request_save();
                                }});
  exchange.finish();
  EXPECT_THAT(walked.saved, ElementsAre(3, 6));
  EXPECT_EQ(walked.begun.size(), 9U);
  EXPECT_EQ(exchange.stopped_at(), std::nullopt);
  expect_merged_before(outcome, plan, 9);
}

TEST_P(AgreedBoundaries, AStopTakesThePlaceOfASaveAtTheSameBlockAndFollowsAnEarlierOne) {
  const auto plan = make_plan(blocks_of_two(8));
  for (const bool stop_first : {true, false}) {
    Outcome outcome;
    Exchange exchange(comm_, plan, options(), into(outcome));
    const auto request = [&](std::uint32_t block) {
      if (block == 2) exchange.request_save();
      if (block != 5) return;
      if (stop_first) exchange.request_stop();
      exchange.request_save();
      exchange.request_stop();
      exchange.request_stop();
    };
    const Walk walked = walk(exchange, plan, comm_.rank(),
                             {.blocks = 8,
                              .before_boundary =
                                  [&](std::uint32_t block) {
                                    if (block % 3 == 0) wait_until_durable(exchange, block);
                                  },
                              .before_last_submit = request});
    exchange.finish();
    EXPECT_THAT(walked.saved, ElementsAre(3));
    EXPECT_EQ(walked.stopped, 6U);
    EXPECT_EQ(exchange.stopped_at(), 6U);
    expect_merged_before(outcome, plan, 6);
  }
}

TEST_P(AgreedBoundaries, ARequestInTheLastBlockOrAfterItHasNoEffect) {
  const auto plan = make_plan(blocks_of_two(3));
  Outcome outcome;
  Exchange exchange(comm_, plan, options(), into(outcome));
  const Walk walked =
      walk(exchange, plan, comm_.rank(), {.blocks = 3, .before_last_submit = [&](std::uint32_t block) {
                                            if (block == 2) exchange.request_stop();
                                          }});
  exchange.request_save();
  exchange.finish();
  exchange.request_stop();
  EXPECT_EQ(walked.stopped, std::nullopt);
  EXPECT_EQ(exchange.stopped_at(), std::nullopt);
  EXPECT_EQ(exchange.durable_block(), kNone);
  expect_merged_before(outcome, plan, 3);
}

TEST_P(AgreedBoundaries, RequestsAtRandomMomentsOnRandomRanksGiveOneStopEverywhere) {
  constexpr std::uint32_t kBlocks = 10;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    CaseOptions chosen = blocks_of_two(kBlocks);
    chosen.placement = seed % 5 == 0   ? Placement::all_on_last
                       : seed % 5 == 1 ? Placement::all_on_root
                                       : Placement::round_robin;
    chosen.sampled = seed % 2 == 0;
    const auto plan = make_plan(chosen);
    Outcome outcome;
    Exchange exchange(comm_, plan, options(), into(outcome));
    const int rank = comm_.rank();
    std::jthread signals([&] {  // on each rank none to three requests
      for (std::uint64_t i = 0; i < draw(seed, rank, 0) % 4; ++i) {
        std::this_thread::sleep_for(std::chrono::microseconds(draw(seed, rank, 10 + i) % 8000));
        if (draw(seed, rank, 20 + i) % 3 == 0) {
          exchange.request_stop();
        } else {
          exchange.request_save();
        }
      }
    });
    const auto pauses = seed * 100 + static_cast<std::uint64_t>(rank);
    const Walk walked = walk(exchange, plan, rank, {.blocks = kBlocks, .seed = pauses});
    exchange.finish();
    signals.join();
    const std::uint32_t stop = exchange.stopped_at().value_or(kBlocks);
    expect_same_everywhere(stop);
    if (walked.begun.empty() && !walked.stopped) {  // without clients
      expect_merged_before(outcome, plan, stop);
      comm_.barrier();
      (void)comm_.broadcast(std::string());
      continue;
    }
    EXPECT_EQ(walked.stopped, exchange.stopped_at());
    EXPECT_EQ(walked.begun.size(), stop);
    EXPECT_TRUE(std::is_sorted(walked.saved.begin(), walked.saved.end()));
    EXPECT_FALSE(std::count(walked.saved.begin(), walked.saved.end(), stop)) << "the stop wins";
    expect_merged_before(outcome, plan, stop);
    comm_.barrier();
    // Every rank with clients saved at the same blocks.
    std::string saved;
    for (const std::uint32_t block : walked.saved) saved += fmt::format("{} ", block);
    const std::string of_root = comm_.broadcast(saved);
    EXPECT_EQ(of_root, plan.rank_of_client[0] == 0 ? saved : "");
  }
}

TEST_P(AgreedBoundaries, ARoundMayBeginAtAnyBlock) {
  auto plan = make_plan(blocks_of_two(4));
  for (PlannedUnit& unit : plan.units) unit.id.block += 7;
  plan.first_block = 7;
  for (const bool stopping : {false, true}) {
    Outcome outcome;
    Exchange exchange(comm_, plan, options(), into(outcome));
    EXPECT_GE(exchange.durable_block(), 7U) << "nothing is planned before";
    const Walk walked = walk(exchange, plan, comm_.rank(),
                             {.blocks = 12,
                              .before_boundary =
                                  [&](std::uint32_t block) {
                                    if (block == 9) wait_until_durable(exchange, 9);
                                  },
                              .before_last_submit =
                                  [&](std::uint32_t block) {
                                    if (block == 8 && stopping) exchange.request_stop();
                                  }},
                             7);
    exchange.finish();
    EXPECT_EQ(exchange.stopped_at(), stopping ? std::optional(9U) : std::nullopt);
    EXPECT_EQ(walked.begun.size(), stopping ? 2U : 5U);
    expect_merged_before(outcome, plan, stopping ? 9 : 12);
  }
}

TEST_P(AgreedBoundaries, AnEmptyPlanStopsToo) {
  ExchangePlan plan;
  for (int rank = 0; rank < comm_.size(); ++rank) plan.rank_of_client.push_back(rank);
  for (int asking = 0; asking < comm_.size(); ++asking) {
    Exchange exchange(comm_, plan, options(), [](const CompletedUnit&) {});
    EXPECT_EQ(exchange.durable_block(), kNone);
    std::uint32_t block = 0;
    while (exchange.at_boundary(block) != Boundary::stop) {
      if (block == 2 && comm_.rank() == asking) exchange.request_stop();
      ++block;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    exchange.finish();
    EXPECT_EQ(exchange.stopped_at(), block);
    EXPECT_GE(block, 1U);
    expect_same_everywhere(block);
  }
}

TEST_P(AgreedBoundaries, AFailureReachesAClientThatWaitsAtABoundary) {
  if (comm_.size() == 1) GTEST_SKIP() << "needs two ranks";
  auto plan = make_plan(blocks_of_two(20));
  for (PlannedUnit& unit : plan.units) {  // nobody else submits, so that all can wait for durability only
    unit.clients = {static_cast<std::uint32_t>(last())};
  }
  Exchange exchange(comm_, plan, options(), [](const CompletedUnit&) {});
  std::string thrown;
  if (comm_.rank() == last()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    exchange.fail(DataError("bad data"));
    thrown = thrown_by([&] { exchange.finish(); });
  } else {
    thrown = thrown_by([&] { (void)walk(exchange, plan, comm_.rank(), {.blocks = 20}); });
  }
  EXPECT_THAT(thrown, HasSubstr(fmt::format("2: rank {} on ", last())));
  EXPECT_THAT(thrown, HasSubstr("bad data"));
}

TEST_P(AgreedBoundaries, AskingTwiceOrBackwardsAndSubmittingAfterTheStopAreRefused) {
  const auto plan = make_plan(blocks_of_two(4));
  Exchange exchange(comm_, plan, options(), [](const CompletedUnit&) {});
  const Walk walked = walk(exchange, plan, comm_.rank(),
                           {.blocks = 4,
                            .before_boundary =
                                [&](std::uint32_t block) {
                                  if (block == 2) {
                                    wait_until_durable(exchange, 2);
                                    EXPECT_THROW((void)exchange.at_boundary(1), LogicError);
                                    EXPECT_THROW((void)exchange.at_boundary(0), LogicError);
                                    EXPECT_THROW((void)exchange.at_boundary(3), LogicError);
                                  }
                                },
                            .before_last_submit =
                                [&](std::uint32_t block) {
                                  if (block == 1) exchange.request_stop();
                                }});
  EXPECT_EQ(walked.stopped, 2U);
  for (const std::uint32_t client : plan.units[4].clients) {
    if (plan.rank_of_client[client] != comm_.rank()) continue;
    EXPECT_THAT(thrown_by([&] { exchange.submit(4, make_update(plan, 4, client)); }),
                HasSubstr("before the agreed stop"));
  }
  exchange.finish();  // waits for the other ranks' refusals, too
  EXPECT_EQ(exchange.stopped_at(), 2U);
}

TEST_P(AgreedBoundaries, DurableMeansCalledBackAndBoundsHowFarAClientRunsAhead) {
  constexpr std::uint32_t kBlocks = 12;
  auto plan = make_plan(blocks_of_two(kBlocks));
  for (PlannedUnit& unit : plan.units) {  // client 0 delivers all; the others only the last block
    if (unit.id.block + 1 < kBlocks) unit.clients = {0};
  }
  std::atomic<std::uint32_t> called_back{0};  // blocks, at the root
  ExchangeOptions chosen = options();
  chosen.window_blocks = 1;
  Exchange exchange(comm_, plan, chosen, [&](const CompletedUnit& unit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (unit.index % 2 == 1) called_back = plan.units[unit.index].id.block + 1;
  });
  std::uint32_t before = 0;
  const auto check_durable = [&](std::uint32_t block) {
    const std::uint32_t durable = exchange.durable_block();
    EXPECT_GE(durable, before) << "it grows";
    before = durable;
    EXPECT_TRUE(comm_.rank() != 0 || durable <= called_back.load());
    return durable + 1 + 2 >= block;
  };
  for (std::uint32_t block = 0; block < kBlocks; ++block) {
    EXPECT_EQ(exchange.at_boundary(block), Boundary::go_on);
    EXPECT_TRUE(check_durable(block)) << "at_boundary() waits";
    for (std::size_t index = 2 * block; index < 2 * block + 2; ++index) {
      for (const std::uint32_t client : plan.units[index].clients) {
        if (plan.rank_of_client[client] == comm_.rank())
          exchange.submit(index, make_update(plan, index, client));
      }
    }
  }
  exchange.finish();
  EXPECT_EQ(exchange.durable_block(), kNone);
}

TEST_P(AgreedBoundaries, SubmitAloneWaitsForDurabilityToo) {
  constexpr std::uint32_t kBlocks = 12;
  auto plan = make_plan(blocks_of_two(kBlocks));
  for (PlannedUnit& unit : plan.units) {
    if (unit.id.block + 1 < kBlocks) unit.clients = {0};
  }
  Exchange exchange(comm_, plan, options(),
                    [&](const CompletedUnit&) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); });
  for (std::size_t index = 0; index < plan.units.size(); ++index) {
    for (const std::uint32_t client : plan.units[index].clients) {
      if (plan.rank_of_client[client] != comm_.rank()) continue;
      exchange.submit(index, make_update(plan, index, client));
      EXPECT_GE(std::int64_t{exchange.durable_block()} + 2 + 2, plan.units[index].id.block);
    }
  }
  exchange.finish();
}

INSTANTIATE_TEST_SUITE_P(Exchange, AgreedBoundaries,
                         testing::Values(Way::gather, Way::reduce, Way::nccl, Way::owners, Way::nodes),
                         [](const auto& tested) { return name_of(tested.param); });

}  // namespace
}  // namespace fedspallm::comm
