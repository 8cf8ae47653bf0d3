// SPDX-License-Identifier: Apache-2.0
// All ways of merging bring the root the same bits as a serial merge, for any spread of clients, sizes and
// delivery order.
#include "fedspallm/comm/exchange.hpp"

#include "fedspallm/comm/cost_model.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/exchange_case.hpp"
#include "comm/host_device.hpp"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

namespace fedspallm::comm {
namespace {

using namespace test;  // NOLINT: the tests' own helpers

const std::vector<Shape> kEdgeShapes = {
    {1, 1, DType::f32}, {7, 9, DType::bf16}, {8, 8, DType::f16}, {5, 13, DType::bf16}, {3, 65, DType::f32}};

void expect_serial_result(const Outcome& outcome, const std::vector<Seen>& expected, int rank,
                          const std::string& what) {
  if (rank != 0) {
    EXPECT_TRUE(outcome.order.empty()) << "the callback belongs to the root";
    return;
  }
  ASSERT_EQ(outcome.order.size(), expected.size()) << what;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(outcome.order[i], i) << what;
    EXPECT_TRUE(outcome.seen[i] == expected[i]) << what << ", unit " << i;
  }
}

class AllWays : public testing::TestWithParam<Way> {
 protected:
  [[nodiscard]] ExchangeOptions options() {
    ExchangeOptions options = options_of(GetParam(), comm_);
    return options;
  }
  /// The expected result at the root; elsewhere nobody looks at it.
  [[nodiscard]] std::vector<Seen> serial(const ExchangePlan& plan) const {
    return comm_.rank() == 0 ? merge_serially(plan) : std::vector<Seen>();
  }
  Communicator comm_;
};

/// The spreads that differ on so many ranks.
std::vector<Placement> placements(int ranks) {
  if (ranks == 1) return {Placement::all_on_root};
  if (ranks == 2) return {Placement::round_robin, Placement::all_on_root, Placement::all_on_last};
  return {Placement::round_robin, Placement::all_on_root, Placement::all_on_last, Placement::none_on_root};
}

TEST_P(AllWays, GiveTheSerialBitsForAnySpreadOfClients) {
  for (const std::uint32_t clients : {1U, 2U, 3U, 5U, 8U}) {
    for (const Placement placement : placements(comm_.size())) {
      const auto plan = make_plan({.clients = clients,
                                   .placement = placement,
                                   .ranks = comm_.size(),
                                   .blocks = 1,
                                   .shapes = kEdgeShapes});
      const auto outcome = run_exchange(comm_, plan, options(), clients);
      expect_serial_result(outcome, serial(plan), comm_.rank(),
                           fmt::format("{} clients, placement {}", clients, static_cast<int>(placement)));
    }
  }
}

TEST_P(AllWays, GiveTheSerialBitsWhenBlocksAreSampled) {
  for (const std::uint32_t clients : {2U, 5U, 8U}) {
    const auto plan = make_plan(
        {.clients = clients, .ranks = comm_.size(), .blocks = 6, .shapes = kEdgeShapes, .sampled = true});
    expect_serial_result(run_exchange(comm_, plan, options(), 0), serial(plan), comm_.rank(),
                         fmt::format("{} clients", clients));
  }
}

TEST_P(AllWays, GiveTheSerialBitsForLargeMatricesAndAnyChunk) {
  const auto plan = make_plan(
      {.clients = 5, .ranks = comm_.size(), .shapes = {{48, 350, DType::bf16}, {17, 350, DType::f32}}});
  const auto expected = serial(plan);
  const std::pair<std::int64_t, std::int64_t> chunks_and_limits[] = {
      {1, 1000}, {768 * 7, 1 << 30}, {100'000, 1000}, {1 << 20, 1 << 30}};
  for (const auto& [chunk, limit] : chunks_and_limits) {
    ExchangeOptions chosen = options();
    chosen.chunk_bytes = chunk;
    chosen.message_limit = limit;
    expect_serial_result(run_exchange(comm_, plan, chosen, 0), expected, comm_.rank(),
                         fmt::format("chunk {}, limit {}", chunk, limit));
  }
}

TEST_P(AllWays, GiveTheSerialBitsForAnyOrderOfArrival) {
  const auto plan = make_plan({.clients = 8,
                               .ranks = comm_.size(),
                               .blocks = 3,
                               .shapes = {{16, 40, DType::f32}, {9, 40, DType::bf16}}});
  const auto expected = serial(plan);
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const auto outcome =
        run_exchange(comm_, plan, options(), seed * 100 + static_cast<std::uint64_t>(comm_.rank()));
    expect_serial_result(outcome, expected, comm_.rank(), fmt::format("seed {}", seed));
  }
}

TEST_P(AllWays, CarryNoDiagonalWhereThePlanHasNone) {
  const auto plan =
      make_plan({.clients = 3, .ranks = comm_.size(), .shapes = kEdgeShapes, .diagonals = false});
  ExchangeOptions chosen = options();
  chosen.rules.tie = aggregate::TieRule::magnitude;
  const auto outcome = run_exchange(comm_, plan, chosen, 0);
  expect_serial_result(outcome, serial(plan), comm_.rank(), "no diagonals");
  for (const Seen& seen : outcome.seen) EXPECT_TRUE(seen.diagonal_sums.empty());
}

TEST_P(AllWays, FinishAtOnceWhenNothingIsPlanned) {
  const auto outcome = run_exchange(comm_, ExchangePlan{.units = {}, .rank_of_client = {0}}, options(), 0);
  EXPECT_TRUE(outcome.order.empty());
}

TEST_P(AllWays, SendTheForecastNumberOfBytes) {
  auto plan = make_plan(
      {.clients = 5, .ranks = comm_.size(), .shapes = {{16, 40, DType::bf16}, {9, 40, DType::f32}}});
  ExchangeOptions chosen = options();
  chosen.rules.sparsity = 0;
  const bool spread = chosen.topology == Topology::owners;  // slices of a part of the weights would differ
  for (std::size_t index = 0; index < plan.units.size(); ++index) {
    PlannedUnit& unit = plan.units[index];
    unit.clients = {1, 3};  // so that one number per unit can be right for all of its clients
    unit.expected_kept = spread ? unit.rows * unit.cols : 100;
  }
  Exchange exchange(comm_, plan, chosen, [](const CompletedUnit&) {});
  for (std::size_t index = 0; index < plan.units.size(); ++index) {
    for (const std::uint32_t client : plan.units[index].clients) {
      if (plan.rank_of_client[client] == comm_.rank())
        exchange.submit(index, with_kept(plan, index, client, plan.units[index].expected_kept));
    }
  }
  exchange.finish();
  EXPECT_EQ(exchange.statistics().bytes_sent, forecast_bytes(plan, chosen, comm_.rank(), comm_.size()) +
                                                  closing_bytes(comm_.rank(), comm_.size()));
  EXPECT_EQ(comm_.sum(exchange.statistics().bytes_sent), comm_.sum(exchange.statistics().bytes_received));
}

TEST_P(AllWays, SendNothingInAWorldOfOne) {
  if (comm_.size() > 1) GTEST_SKIP() << "for one rank";
  const auto plan = make_plan({.clients = 4, .shapes = kEdgeShapes});
  const auto outcome = run_exchange(comm_, plan, options(), 0);
  EXPECT_EQ(outcome.statistics.bytes_sent, 0);
  EXPECT_EQ(outcome.statistics.messages_sent, 0);
}

TEST_P(AllWays, KeepTheRootsMergeMemoryWhateverTheNumberOfClients) {
  std::vector<std::int64_t> peaks;
  for (const std::uint32_t clients : {4U, 64U}) {
    const auto plan = make_plan({.clients = clients,
                                 .ranks = comm_.size(),
                                 .blocks = 3,
                                 .shapes = {{40, 128, DType::bf16}, {24, 128, DType::bf16}}});
    ExchangeOptions chosen = options();
    chosen.chunk_bytes = 4096;
    chosen.window_blocks = 3;  // nobody waits, so the slow root has all of its window filled
    Exchange exchange(comm_, plan, chosen, [](const CompletedUnit& unit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(unit.index == 0 ? 150 : 2));
    });
    deliver_all(exchange, plan, comm_.rank(), 0);
    exchange.finish();
    peaks.push_back(exchange.statistics().peak_merge_bytes);
  }
  if (comm_.rank() != 0) return;
  const std::int64_t owners = GetParam() == Way::owners ? comm_.size() : 1;
  EXPECT_GT(peaks[0], 40 * 128 * 12 / owners) << "at least one merge state";
  // Both units' states may live at once, or, on a busy machine, never do: that is not the clients' doing.
  const std::int64_t both = (40 + 24) * 128 * 12;
  EXPECT_LE(static_cast<double>(peaks[1]), 1.05 * static_cast<double>(std::max(peaks[0], both)));
}

TEST_P(AllWays, LetSubmitWaitWhileTheWindowIsFull) {
  for (const int window : {1, 2, 3}) {
    const auto plan =
        make_plan({.clients = 3, .placement = Placement::all_on_root, .ranks = comm_.size(), .blocks = 8});
    ExchangeOptions chosen = options();
    chosen.window_blocks = window;
    std::atomic<std::int64_t> submitted{-1};  // block of the latest submit() that returned, on the root
    std::atomic<std::int64_t> furthest{0};
    Exchange exchange(comm_, plan, chosen, [&](const CompletedUnit& unit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      furthest = std::max(furthest.load(), submitted.load() - static_cast<std::int64_t>(unit.index));
    });
    for (std::size_t index = 0; comm_.rank() == 0 && index < plan.units.size(); ++index) {
      for (const std::uint32_t client : plan.units[index].clients)
        exchange.submit(index, make_update(plan, index, client));
      submitted = static_cast<std::int64_t>(index);
    }
    exchange.finish();
    // While a block is called back its updates are merged already; reduce and nodes merge one block ahead of
    // the callback; on devices and at owners updates also wait in receive buffers.
    const int ahead = GetParam() == Way::gather                               ? 0
                      : GetParam() == Way::reduce || GetParam() == Way::nodes ? 1
                                                                              : 2;
    EXPECT_LE(furthest.load(), window + ahead);
  }
}

TEST_P(AllWays, RefuseWhatThePlanDoesNotExpect) {
  const auto plan = make_plan({.clients = 2,
                               .placement = Placement::all_on_root,
                               .ranks = comm_.size(),
                               .shapes = {{2, 3, DType::f32}, {4, 3, DType::f32}}});
  Exchange exchange(comm_, plan, options(), [](const CompletedUnit&) {});
  if (comm_.rank() == 0) {
    EXPECT_THROW(exchange.submit(99, make_update(plan, 0, 0)), LogicError);
    EXPECT_THROW(exchange.submit(1, make_update(plan, 1, 0)), LogicError) << "unit 0 comes first";
    EXPECT_THROW(exchange.submit(0, make_update(plan, 1, 0)), LogicError) << "another unit's update";
    auto without_diagonal = make_update(plan, 0, 0);
    without_diagonal.hessian_diagonal.clear();
    EXPECT_THROW(exchange.submit(0, without_diagonal), LogicError);
    auto stranger = make_update(plan, 0, 0);
    stranger.client = 7;
    EXPECT_THROW(exchange.submit(0, stranger), LogicError);
    auto reshaped = make_update(plan, 0, 0);
    reshaped.matrix.rows = 3;
    reshaped.matrix.cols = 2;
    EXPECT_THROW(exchange.submit(0, reshaped), LogicError);
    exchange.submit(0, make_update(plan, 0, 0));
    EXPECT_THROW(exchange.submit(0, make_update(plan, 0, 0)), LogicError) << "delivered twice";
    exchange.submit(0, make_update(plan, 0, 1));
    exchange.submit(1, make_update(plan, 1, 0));
    exchange.submit(1, make_update(plan, 1, 1));
    for (const std::size_t index : {2U, 3U}) {
      for (const std::uint32_t client : {0U, 1U}) exchange.submit(index, make_update(plan, index, client));
    }
  }
  exchange.finish();
}

TEST_P(AllWays, RefusePlansThatDifferAmongRanks) {
  if (comm_.size() == 1) GTEST_SKIP() << "needs two ranks";
  auto plan = make_plan({.clients = 2, .ranks = comm_.size()});
  if (comm_.rank() == 1) plan.units[0].rows = 9;
  EXPECT_THROW(Exchange(comm_, plan, options(), [](const CompletedUnit&) {}), LogicError);
}

INSTANTIATE_TEST_SUITE_P(Exchange, AllWays,
                         testing::Values(Way::gather, Way::reduce, Way::nccl, Way::owners, Way::nodes),
                         [](const auto& tested) { return name_of(tested.param); });

TEST(SpreadWriting, EachRankGetsTheUnitsOfItsBlocksAndTheRootTheirNotes) {
  Communicator comm;
  const auto plan = make_plan({.clients = 3, .ranks = comm.size(), .blocks = 9, .shapes = kEdgeShapes});
  const auto expected = merge_serially(plan);
  ExchangeOptions options = options_of(Way::owners, comm);
  options.spread_writing = true;
  std::vector<std::size_t> order;
  std::vector<std::string> notes(plan.units.size());
  options.note = [&](std::size_t unit) { return fmt::format("unit {} by {}", unit, comm.rank()); };
  options.on_note = [&](std::size_t unit, const std::string& note) { notes[unit] = note; };
  Exchange exchange(comm, plan, options, [&](const CompletedUnit& unit) {
    order.push_back(unit.index);
    EXPECT_TRUE(copy_of(unit) == expected[unit.index]) << "unit " << unit.index;
  });
  deliver_all(exchange, plan, comm.rank(), 0);
  exchange.finish();
  std::vector<std::size_t> mine;
  for (std::size_t unit = 0; unit < plan.units.size(); ++unit)
    if (static_cast<int>(plan.units[unit].id.block) % comm.size() == comm.rank()) mine.push_back(unit);
  EXPECT_EQ(order, mine);
  for (std::size_t unit = 0; comm.rank() == 0 && unit < plan.units.size(); ++unit)
    EXPECT_EQ(notes[unit],
              fmt::format("unit {} by {}", unit, static_cast<int>(plan.units[unit].id.block) % comm.size()));
}

TEST(Owners, TakeUpdatesThatWereOnlySummarized) {
  Communicator comm;
  const auto plan = make_plan({.clients = 5, .ranks = comm.size(), .shapes = kEdgeShapes});
  Outcome outcome;
  Exchange exchange(comm, plan, options_of(Way::owners, comm), [&](const CompletedUnit& unit) {
    outcome.order.push_back(unit.index);
    outcome.seen.push_back(copy_of(unit));
  });
  for (std::size_t index = 0; index < plan.units.size(); ++index) {
    std::vector<UpdateSummary> said;
    for (const std::uint32_t client : plan.units[index].clients) {
      if (plan.rank_of_client[client] != comm.rank()) continue;
      const wire::MatrixUpdate update = make_update(plan, index, client);
      UpdateSummary one;
      one.client = client;
      one.kept = update.matrix.kept;
      one.largest = wire::largest_magnitude(update.matrix);
      for (const float value : update.hessian_diagonal)
        one.largest_diagonal = std::max(one.largest_diagonal, value);
      one.report = update.report;
      said.push_back(one);
    }
    exchange.submit_later(index, said,
                          [&plan, index](std::uint32_t client) { return make_update(plan, index, client); });
  }
  exchange.finish();
  if (comm.rank() == 0) expect_serial_result(outcome, merge_serially(plan), 0, "summarized");
}

TEST(Owners, SendTheForecastNumberOfBytesOfNMPatterns) {
  Communicator comm;
  auto plan = make_plan(
      {.clients = 5, .ranks = comm.size(), .shapes = {{24, 40, DType::bf16}, {9, 128, DType::f32}}});
  ExchangeOptions options = options_of(Way::owners, comm);
  options.rules.keep = 2;
  options.rules.group = 4;
  for (PlannedUnit& unit : plan.units) unit.expected_kept = unit.rows * unit.cols / 2;
  Exchange exchange(comm, plan, options, [](const CompletedUnit&) {});
  for (std::size_t index = 0; index < plan.units.size(); ++index)
    for (const std::uint32_t client : plan.units[index].clients) {
      if (plan.rank_of_client[client] != comm.rank()) continue;
      wire::MatrixUpdate update = make_update(plan, index, client);
      const auto size = static_cast<std::size_t>(update.matrix.size());
      std::vector<float> dense(size, 0.5F);
      std::vector<std::uint8_t> kept(size);
      for (std::size_t i = 0; i < size; ++i) kept[i] = (i + client + i / 4) % 4 < 2 ? 1 : 0;
      update.matrix = wire::pack(update.matrix.rows, update.matrix.cols, update.matrix.dtype, dense, kept);
      exchange.submit(index, std::move(update));
    }
  exchange.finish();
  const std::int64_t end = comm.size() == 1 ? 0 : comm.rank() == 0 ? 6 * (comm.size() - 1) : 3;
  EXPECT_EQ(exchange.statistics().bytes_sent, forecast_bytes(plan, options, comm.rank(), comm.size()) + end);
}

std::vector<std::byte> block_bytes(std::uint32_t block) {
  constexpr std::size_t sizes[] = {0, 1, 999, 1000, 1001, 100'000};
  std::vector<std::byte> bytes(sizes[block % 6]);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + block);
  return bytes;
}

TEST(Fetch, BringsEveryBlockOfAnySizeToEveryRankInAnyOrder) {
  Communicator comm;
  ExchangeOptions options;
  options.message_limit = 1000;
  const auto plan = make_plan({.clients = 2, .ranks = comm.size()});
  Exchange exchange(
      comm, plan, options, [](const CompletedUnit&) {}, block_bytes);
  for (std::uint32_t i = 0; i < 12; ++i) {
    const std::uint32_t block = comm.rank() % 2 == 0 ? i : 11 - i;
    EXPECT_TRUE(exchange.fetch(block) == block_bytes(block)) << "block " << block;
  }
  deliver_all(exchange, plan, comm.rank(), 0);
  exchange.finish();
}

TEST(Fetch, ServesSeveralThreadsOfARank) {
  Communicator comm;
  Exchange exchange(
      comm, ExchangePlan{.units = {}, .rank_of_client = {0}}, {}, [](const CompletedUnit&) {}, block_bytes);
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t t = 0; t < 3; ++t) {
      threads.emplace_back([&exchange, t] {
        for (std::uint32_t i = 0; i < 10; ++i) {
          const std::uint32_t block = (i + t) % 6;
          EXPECT_TRUE(exchange.fetch(block) == block_bytes(block));
        }
      });
    }
  }
  exchange.finish();
}

}  // namespace
}  // namespace fedspallm::comm
