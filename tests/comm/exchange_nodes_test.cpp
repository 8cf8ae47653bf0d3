// SPDX-License-Identifier: Apache-2.0
// Topology nodes: the serial bits for any nodes, bytes by formula, one merge state a node, a rank that cannot
// add, and what a node's memory asks for. (Every other test of the exchange runs over nodes of two, too.)
#include "fedspallm/aggregate/shared_merge.hpp"
#include "fedspallm/comm/cost_model.hpp"
#include "fedspallm/comm/node_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/exchange_case.hpp"
#include "comm/host_device.hpp"
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <limits>

namespace fedspallm::comm {
namespace {

using namespace test;  // NOLINT: the tests' own helpers
using testing::HasSubstr;

const std::vector<Shape> kShapes = {{1, 1, DType::f32},
                                    {7, 9, DType::bf16},
                                    {64, 300, DType::bf16},
                                    {3, 300, DType::f32},
                                    {5, 13, DType::f16}};

/// Nodes of 1, 2, 3, ... ranks, and two whose ranks alternate.
std::vector<std::vector<int>> layouts(int ranks) {
  std::vector<std::vector<int>> all;
  for (const int size : {1, 2, 3, 4, 16})
    if (size == 1 || size <= ranks) all.push_back(even_nodes(ranks, size));
  std::vector<int> alternating;
  for (int rank = 0; rank < ranks; ++rank) alternating.push_back(rank % 2);
  all.push_back(alternating);
  return all;
}

class Nodes : public testing::Test {
 protected:
  void expect_serial_bits(const ExchangePlan& plan, const ExchangeOptions& options, std::uint64_t seed = 0) {
    const Outcome outcome = run_exchange(comm_, plan, options, seed);
    if (comm_.rank() != 0) return;
    const auto expected = merge_serially(plan);
    ASSERT_EQ(outcome.seen.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_TRUE(outcome.seen[i] == expected[i]) << "unit " << i;
  }
  Communicator comm_;
};

TEST_F(Nodes, OfAnySizesGiveTheSerialBits) {
  for (const std::vector<int>& leaders : layouts(comm_.size())) {
    SCOPED_TRACE(fmt::format("leaders {}", fmt::join(leaders, " ")));
    for (const Placement placement :
         {Placement::round_robin, Placement::all_on_root, Placement::all_on_last, Placement::none_on_root}) {
      const auto clients = static_cast<std::uint32_t>(comm_.size()) + 3;
      const auto plan = make_plan({.clients = clients,
                                   .placement = placement,
                                   .ranks = comm_.size(),
                                   .blocks = 3,
                                   .shapes = kShapes});
      ExchangeOptions options = options_of_nodes(leaders, comm_);
      options.chunk_bytes = 10'000;
      expect_serial_bits(plan, options, 7 + static_cast<std::uint64_t>(comm_.rank()));
    }
  }
}

TEST_F(Nodes, WithoutClientsOfABlockAreLeftOut) {
  for (const std::vector<int>& leaders : layouts(comm_.size())) {
    const auto plan = make_plan({.clients = static_cast<std::uint32_t>(comm_.size()),
                                 .ranks = comm_.size(),
                                 .blocks = 8,
                                 .shapes = {{5, 40, DType::bf16}, {3, 40, DType::f32}},
                                 .sampled = true});
    expect_serial_bits(plan, options_of_nodes(leaders, comm_));
  }
}

TEST_F(Nodes, SendTheForecastNumberOfBytesAndOnlyLeadersSendSums) {
  const auto plan = make_plan({.clients = 2 * static_cast<std::uint32_t>(comm_.size()) + 1,
                               .ranks = comm_.size(),
                               .blocks = 4,
                               .shapes = {{16, 40, DType::bf16}, {9, 40, DType::f32}},
                               .sampled = true});
  for (const std::vector<int>& leaders : layouts(comm_.size())) {
    const ExchangeOptions options = options_of_nodes(leaders, comm_);
    const Outcome outcome = run_exchange(comm_, plan, options, 0);
    const std::int64_t closing = closing_bytes(comm_.rank(), comm_.size());
    EXPECT_EQ(outcome.statistics.bytes_sent,
              forecast_bytes(plan, options, comm_.rank(), comm_.size()) + closing);
    if (leaders[static_cast<std::size_t>(comm_.rank())] == comm_.rank()) continue;
    std::int64_t announced = 0;
    for (const PlannedUnit& unit : plan.units)
      announced += 100 + 80 * static_cast<std::int64_t>(std::ranges::count_if(unit.clients, [&](auto client) {
                           return plan.rank_of_client[client] == comm_.rank();
                         }));
    EXPECT_LT(outcome.statistics.bytes_sent, announced) << "announcements and a word for each unit";
  }
}

TEST_F(Nodes, HoldTwoStatesForAllOfTheirRanks) {
  const auto plan = make_plan({.clients = 8, .ranks = comm_.size(), .shapes = {{64, 300, DType::bf16}}});
  const std::vector<int> leaders = even_nodes(comm_.size(), 16);
  ExchangeOptions options = options_of_nodes(leaders, comm_);
  const std::int64_t state = aggregate::SharedMerge::bytes(64, 300);
  options.node_memory = std::make_shared<NodeMemory>(comm_, leaders, state);
  const Outcome outcome = run_exchange(comm_, plan, options, 0);
  EXPECT_EQ(outcome.statistics.peak_merge_bytes, comm_.rank() == 0 ? 2 * state : 0);
}

TEST_F(Nodes, EndInOrderWhenARankCannotAddAndNobodySeesItsSums) {
  for (const std::vector<int>& leaders : layouts(comm_.size())) {
    for (int failing = 0; failing < comm_.size(); ++failing) {
      const auto plan = make_plan({.clients = static_cast<std::uint32_t>(comm_.size()),
                                   .ranks = comm_.size(),
                                   .blocks = 3,
                                   .shapes = {{16, 40, DType::bf16}, {9, 40, DType::f32}}});
      const auto expected = merge_serially(plan);
      std::string thrown;
      {
        Exchange exchange(comm_, plan, options_of_nodes(leaders, comm_), [&](const CompletedUnit& unit) {
          EXPECT_LT(unit.index, 3U) << "unit 3 could not be added up";
          EXPECT_TRUE(copy_of(unit) == expected[unit.index]);
        });
        thrown = thrown_by([&] {
          for (std::size_t index = 0; index < plan.units.size(); ++index) {
            const auto own = static_cast<std::uint32_t>(comm_.rank());
            const wire::MatrixUpdate update = make_update(plan, index, own);
            UpdateSummary said{.client = own,
                               .kept = update.matrix.kept,
                               .largest = wire::largest_magnitude(update.matrix),
                               .report = update.report};
            for (const float value : update.hessian_diagonal)
              said.largest_diagonal = std::max(said.largest_diagonal, value);
            exchange.submit_later(index, {said}, [&, index](std::uint32_t client) {
              if (comm_.rank() == failing && index == 3) throw NumericalError("no sums");
              return make_update(plan, index, client);
            });
          }
          exchange.finish();
        });
      }
      EXPECT_EQ(thrown, fmt::format("7: rank {} on {}: no sums", failing, comm_.host()));
      expect_serial_bits(plan, options_of_nodes(leaders, comm_));
    }
  }
}

TEST_F(Nodes, RefuseOptionsThatCannotWork) {
  const auto plan = make_plan({.clients = 2, .ranks = comm_.size(), .shapes = {{64, 300, DType::bf16}}});
  const auto refused = [&](const std::function<void(ExchangeOptions&)>& change) {
    ExchangeOptions options = options_of_nodes(even_nodes(comm_.size(), 2), comm_);
    change(options);
    return thrown_by([&] { Exchange(comm_, plan, options, [](const CompletedUnit&) {}); });
  };
  EXPECT_THAT(refused([](auto& options) { options.transport = Transport::gather; }),
              HasSubstr("transport reduce"));
  EXPECT_THAT(refused([](auto& options) { options.leaders.pop_back(); }),
              HasSubstr("a leader for every rank"));
  EXPECT_THAT(refused([](auto& options) { options.leaders[0] = 1; }), HasSubstr("lowest rank"));
  EXPECT_THAT(refused([](auto& options) { options.node_memory = nullptr; }),
              HasSubstr("memory that ranks share"));
  EXPECT_THAT(refused([](auto& options) { options.deadline_seconds = 1; }), HasSubstr("a deadline needs"));
  EXPECT_THAT(refused([&](auto& options) {
                options.node_memory = std::make_shared<NodeMemory>(comm_, options.leaders, 1000);
              }),
              HasSubstr("the largest unit"));
}

TEST_F(Nodes, MemoryIsOneForAllRanksOfANode) {
  for (const std::vector<int>& leaders : layouts(comm_.size())) {
    const auto own = static_cast<std::size_t>(comm_.rank());
    const NodeMemory memory(comm_, leaders, 1000);
    EXPECT_GE(memory.state_bytes(), 1000);
    EXPECT_EQ(memory.state(1).data() - memory.state(0).data(), memory.state_bytes());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.state(1).data()) % aggregate::SharedMerge::kAlignment,
              0U);
    EXPECT_THROW((void)memory.state(2), LogicError);
    auto* words = reinterpret_cast<std::uint32_t*>(memory.state(1).data());
    std::atomic_ref(words[own]).store(static_cast<std::uint32_t>(own) + 1);
    std::atomic_ref(words[leaders.size()]).store(static_cast<std::uint32_t>(leaders[own]));
    memory.sync();
    comm_.barrier();
    memory.sync();
    for (std::size_t rank = 0; rank < leaders.size(); ++rank) {
      if (leaders[rank] != leaders[own]) continue;
      EXPECT_EQ(std::atomic_ref(words[rank]).load(), rank + 1);
    }
    EXPECT_EQ(std::atomic_ref(words[leaders.size()]).load(), static_cast<std::uint32_t>(leaders[own]))
        << "another node's ranks wrote elsewhere";
    comm_.barrier();
  }
}

TEST_F(Nodes, PreconditionsAreChecked) {
  EXPECT_THROW((void)even_nodes(0, 1), LogicError);
  EXPECT_THROW((void)even_nodes(1, 0), LogicError);
  const std::vector<int> leaders = even_nodes(comm_.size(), 2);
  EXPECT_THROW(NodeMemory(comm_, leaders, -1), LogicError);
  EXPECT_THROW(NodeMemory(comm_, std::vector<int>(leaders.size() + 1), 64), LogicError);
  const NodeMemory memory(comm_, leaders, 64);
  EXPECT_THROW((void)memory.state(-1), LogicError);
  EXPECT_THROW((void)memory.state(NodeMemory::kStates), LogicError);
}

TEST_F(Nodes, MemoryThatCannotBeHadIsAnErrorOnEveryRank) {
  const auto too_much = [&] { NodeMemory(comm_, even_nodes(comm_.size(), 2), std::int64_t{1} << 50); };
  EXPECT_THAT(thrown_by(too_much), HasSubstr("4: rank 0 on "));
  EXPECT_THAT(thrown_by(too_much), HasSubstr("MB are needed"));
}

TEST_F(Nodes, AreTheHostsUnlessTheEnvironmentSaysOtherwise) {
  const auto said = [](const char* text) {
    return
        [text](const char* name) { return std::string(name) == "FEDSPALLM_RANKS_PER_NODE" ? text : nullptr; };
  };
  EXPECT_EQ(node_leaders(comm_, said(nullptr)), comm_.host_leaders());
  EXPECT_EQ(comm_.host_leaders(), std::vector<int>(static_cast<std::size_t>(comm_.size()), 0)) << "one host";
  EXPECT_EQ(node_leaders(comm_, said("2")), even_nodes(comm_.size(), 2));
  for (const char* bad : {"", "0", "-1", "two", "2x"})
    EXPECT_THROW((void)node_leaders(comm_, said(bad)), ConfigError) << bad;
  EXPECT_EQ(even_nodes(5, 3), (std::vector<int>{0, 0, 0, 3, 3}));
  EXPECT_TRUE(any_shared(even_nodes(3, 2)));
  EXPECT_FALSE(any_shared(even_nodes(3, 1)));
}

TEST(SharedMemory, LacksWhatItsFolderLacks) {
  std::string folder = std::filesystem::temp_directory_path().string();
  const auto getenv = [&](const char* name) {
    return std::string(name) == "OMPI_MCA_osc_sm_backing_directory" ? folder.c_str() : nullptr;
  };
  EXPECT_EQ(shared_memory_lacks(1, getenv), std::nullopt);
  EXPECT_THAT(shared_memory_lacks(std::numeric_limits<std::int64_t>::max(), getenv).value_or(""),
              HasSubstr("are needed"));
  folder = "/nonexistent";
  EXPECT_THAT(shared_memory_lacks(1, getenv).value_or(""), HasSubstr("/nonexistent cannot be written to"));
  EXPECT_EQ(shared_memory_lacks(1, [](const char*) { return static_cast<const char*>(nullptr); }),
            std::nullopt);
}

}  // namespace
}  // namespace fedspallm::comm
