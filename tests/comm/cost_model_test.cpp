// SPDX-License-Identifier: Apache-2.0
// Loads and seconds of the cost model, by arithmetic done by hand.
#include "fedspallm/comm/cost_model.hpp"

#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedspallm::comm {
namespace {

/// 640 weights, half of them kept: 128 + 80 + 640 bytes as an update, 10 tiles of 768 bytes as sums.
PlannedUnit small_unit() {
  PlannedUnit unit;
  unit.id = {1, 0, 0};
  unit.rows = 16;
  unit.cols = 40;
  unit.dtype = DType::bf16;
  unit.expected_kept = 320;
  return unit;
}

CostRates round_rates() {
  return {.link_bytes_per_second = 1e6,
          .seconds_per_message = 3e-3,
          .add_seconds_per_weight = 1e-6,
          .add_tiles_seconds_per_byte = 2e-6};
}

TEST(UnitLoad, CountsClientsWhereTheyAre) {
  ExchangePlan plan;
  plan.rank_of_client = {0, 2, 2, 0, 1, 2};
  PlannedUnit unit = small_unit();
  unit.clients = {0, 1, 2, 4, 5};
  const UnitLoad load = unit_load(plan, unit);
  EXPECT_EQ(load.weights, 640);
  EXPECT_EQ(load.update_bytes, 848);
  EXPECT_EQ(load.sum_bytes, 7680);
  EXPECT_EQ(load.clients, 5);
  EXPECT_EQ(load.remote_clients, 4);
  EXPECT_EQ(load.most_clients, 3);
  EXPECT_EQ(load.links, 2);
}

TEST(UnitLoad, SpreadsClientsEvenly) {
  const UnitLoad ten = even_load(small_unit(), 10, 4);
  EXPECT_EQ(ten.most_clients, 3);
  EXPECT_EQ(ten.remote_clients, 7);
  EXPECT_EQ(ten.links, 3);
  const UnitLoad away = even_load(small_unit(), 10, 4, false);
  EXPECT_EQ(away.most_clients, 4);
  EXPECT_EQ(away.remote_clients, 10);
  EXPECT_EQ(away.links, 3);
  EXPECT_EQ(even_load(small_unit(), 2, 100).links, 1) << "idle ranks are not in the chain";
  EXPECT_EQ(even_load(small_unit(), 7, 1).remote_clients, 0);
  EXPECT_THROW((void)even_load(small_unit(), 1, 1, false), LogicError);
  EXPECT_THROW((void)even_load(small_unit(), 0, 1), LogicError);
}

/// One block of a model like LLaMA-2-7B's attention output matrix, `clients` clients dealt to `ranks` ranks.
ExchangePlan spread_plan(std::uint32_t clients, int ranks) {
  ExchangePlan plan;
  PlannedUnit one = small_unit();
  one.rows = one.cols = 4096;
  one.dtype = DType::bf16;
  one.with_diagonal = true;
  one.expected_kept = one.rows * one.cols / 2;
  std::vector<std::uint32_t> all;
  for (std::uint32_t client = 0; client < clients; ++client) {
    plan.rank_of_client.push_back(static_cast<int>(client) % ranks);
    all.push_back(client);
  }
  one.clients = all;
  plan.units = {one};
  return plan;
}

TEST(CostModel, GatherMovesNineBitsAWeightAndClient) {
  const auto plan = spread_plan(4, 4);
  const double weights = 4096.0 * 4096.0;
  EXPECT_NEAR(static_cast<double>(forecast_bytes(plan, Transport::gather, 1, 4)) * 8 / weights, 9.0, 0.05);
  EXPECT_LT(forecast_bytes(plan, Transport::gather, 0, 4), 1000) << "the root only answers";
}

TEST(CostModel, ReduceMoves96BitsAWeightWhateverTheNumberOfClients) {
  const double weights = 4096.0 * 4096.0;
  for (const std::uint32_t clients : {4U, 64U}) {
    const auto plan = spread_plan(clients, 4);
    EXPECT_NEAR(static_cast<double>(forecast_bytes(plan, Transport::reduce, 3, 4)) * 8 / weights, 96.0, 0.1);
  }
  EXPECT_EQ(forecast_bytes(spread_plan(1, 1), Transport::reduce, 0, 1), 0);
}

TEST(CostModel, ChoosesGatherForFewClientsAndReduceForMany) {
  EXPECT_EQ(choose_transport(spread_plan(4, 4), 4).transport, Transport::gather);
  EXPECT_EQ(choose_transport(spread_plan(256, 4), 4).transport, Transport::reduce);
  EXPECT_EQ(choose_transport(spread_plan(256, 1), 1).transport, Transport::gather) << "nothing travels";
}

TEST(CostModel, SaysWhatItCompared) {
  const TransportChoice choice = choose_transport(spread_plan(8, 4), 4);
  EXPECT_GT(choice.gather_bytes, 0);
  EXPECT_GT(choice.reduce_bytes, choice.gather_bytes);
  EXPECT_GT(choice.gather_seconds, 0);
  EXPECT_GT(choice.reduce_seconds, 0);
  EXPECT_THAT(choice.reason, testing::HasSubstr("gather"));
  EXPECT_THAT(choice.reason, testing::HasSubstr("reduce"));
  EXPECT_THAT(choice.reason, testing::HasSubstr("4 ranks"));
  EXPECT_EQ(choose_transport({}, 2).gather_bytes, 0);
}

TEST(CostModel, RanksOutsideTheWorldAreRefused) {
  EXPECT_THROW((void)forecast_bytes(spread_plan(2, 2), Transport::gather, 2, 2), LogicError);
  EXPECT_THROW((void)forecast_bytes(spread_plan(2, 2), Transport::gather, -1, 2), LogicError);
}

TEST(CostModel, GatherIsLimitedByTheLinkOrByTheRootsCore) {
  UnitLoad load = even_load(small_unit(), 10, 2, false);
  EXPECT_DOUBLE_EQ(gather_seconds(load, round_rates()), 10 * (848e-6 + 1e-3)) << "the link";
  CostRates slow_core = round_rates();
  slow_core.add_seconds_per_weight = 1e-4;
  EXPECT_DOUBLE_EQ(gather_seconds(load, slow_core), 10 * 640 * 1e-4) << "the core";
  load = even_load(small_unit(), 10, 1);
  EXPECT_DOUBLE_EQ(gather_seconds(load, round_rates()), 10 * 640 * 1e-6) << "nothing travels";
}

TEST(CostModel, ReduceAddsOwnClientsAndThenPassesTheSumsOn) {
  const UnitLoad load = even_load(small_unit(), 12, 4);
  // Three clients a rank; 7680 bytes in chunks of 1000 over three links, at the slower of link and core.
  const double expected = 3 * 640 * 1e-6 + (7680 + 2 * 1000) * 2e-6 + 4 * 3e-3;
  EXPECT_DOUBLE_EQ(reduce_seconds(load, round_rates(), 1000), expected);
  EXPECT_DOUBLE_EQ(reduce_seconds(even_load(small_unit(), 5, 1), round_rates(), 1000), 5 * 640 * 1e-6);
}

TEST(CostModel, OwnersShareSlicesAndAddingAndPassResultsOn) {
  PlannedUnit unit = small_unit();
  unit.with_diagonal = true;  // 40 columns: 160 bytes more in an update
  const aggregate::MergeRules rules{.tie = aggregate::TieRule::index};
  const OwnersLoad owners = owners_load(unit, 12, 4, rules);
  EXPECT_EQ(owners.ranks, 4);
  EXPECT_EQ(owners.result_bytes, 848 + 640 + 4 * 8 + 13 * 8)
      << "an update without diagonal, a byte of votes a weight, four counts and a histogram";
  EXPECT_EQ(owners.sums, 3) << "histogram, shares of the last tied weights; diag(H)";
  EXPECT_EQ(owners_load(unit, 300, 4, rules).result_bytes, 848 + 2 * 640 + 4 * 8 + 301 * 8);
  const UnitLoad load = even_load(unit, 12, 4);
  // Three clients a rank, three quarters of each travel; results of three quarters; a tree of two levels.
  const double results = 0.75 * (848 + 640 + 4 * 8 + 13 * 8) / 1e6;
  EXPECT_DOUBLE_EQ(owners_seconds(load, owners, round_rates()),
                   3 * 1008 * 0.75 / 1e6 + results + (3 + 2 * 2 * 3) * 3e-3)
      << "the link";
  CostRates slow_core = round_rates();
  slow_core.add_seconds_per_weight = 1e-4;
  EXPECT_DOUBLE_EQ(owners_seconds(load, owners, slow_core),
                   12 * 640 * 1e-4 / 4 + results + (3 + 2 * 2 * 3) * 3e-3)
      << "the cores";
  EXPECT_DOUBLE_EQ(owners_seconds(even_load(unit, 5, 1), owners_load(unit, 5, 1, rules), round_rates()),
                   5 * 640 * 1e-6)
      << "nothing travels";
  EXPECT_THROW((void)owners_load(unit, 0, 1, rules), LogicError);
  EXPECT_THROW((void)owners_load(unit, 1, 0, rules), LogicError);
}

TEST(CostModel, TakesTheFormulaThatTheOptionsName) {
  const PlannedUnit unit = small_unit();
  const UnitLoad load = even_load(unit, 12, 4);
  ExchangeOptions options;
  options.chunk_bytes = 1000;
  EXPECT_EQ(merge_seconds(unit, load, 4, options, round_rates()), gather_seconds(load, round_rates()));
  options.transport = Transport::reduce;
  EXPECT_EQ(merge_seconds(unit, load, 4, options, round_rates()), reduce_seconds(load, round_rates(), 1000));
  options.transport = Transport::gather;
  options.topology = Topology::owners;
  EXPECT_EQ(merge_seconds(unit, load, 4, options, round_rates()),
            owners_seconds(load, owners_load(unit, 12, 4, options.rules), round_rates()));
  options = {};
  options.transport = Transport::nccl;
  EXPECT_THROW((void)merge_seconds(unit, load, 4, options, round_rates()), LogicError);
}

TEST(CostModel, AbsentClientsTakeFourBytesEach) {
  EXPECT_EQ(absent_bytes(0), 0);
  EXPECT_EQ(absent_bytes(7), 28);
}

/// `count` equal matrices of 4096 x 4096 in bfloat16, half of them kept, one client on each rank.
ExchangePlan large_plan(int ranks, std::int64_t side) {
  ExchangePlan plan;
  std::vector<std::uint32_t> clients;
  for (int rank = 0; rank < ranks; ++rank) {
    plan.rank_of_client.push_back(rank);
    clients.push_back(static_cast<std::uint32_t>(rank));
  }
  PlannedUnit unit = small_unit();
  unit.rows = unit.cols = side;
  unit.expected_kept = side * side / 2;
  unit.clients = clients;
  plan.units = {unit};
  return plan;
}

TEST(NodesSeconds, CountsNodesInPlaceOfRanks) {
  ExchangePlan plan;
  plan.rank_of_client = {0, 1, 2, 3, 5, 1};
  PlannedUnit unit = small_unit();
  unit.clients = {0, 1, 2, 3, 4, 5};
  EXPECT_EQ(nodes_load(plan, unit, even_nodes(6, 2)).links, 2);
  EXPECT_EQ(nodes_load(plan, unit, even_nodes(6, 3)).links, 1);
  EXPECT_EQ(nodes_load(plan, unit, even_nodes(6, 8)).links, 0);
  unit.clients = {4};
  EXPECT_EQ(nodes_load(plan, unit, even_nodes(6, 2)).links, 1) << "the root's node comes to it";
  EXPECT_EQ(even_nodes_load(even_load(unit, 12, 16), even_nodes(16, 4)).links, 2)
      << "ranks 0 to 11 have some";
  EXPECT_EQ(even_nodes_load(even_load(unit, 64, 16, false), even_nodes(16, 4)).links, 3);

  // Two clients on a rank add 2 x 640 us; a message each way. Two more nodes: 7,680 bytes of sums and a chunk
  // of 3,840 more at 2 us, three messages.
  const UnitLoad load = even_load(small_unit(), 12, 6);
  EXPECT_DOUBLE_EQ(nodes_seconds(load, {.links = 0}, round_rates()), 2 * 640e-6 + 3e-3);
  EXPECT_DOUBLE_EQ(nodes_seconds(load, {.links = 2}, round_rates(), 3840),
                   2 * 640e-6 + 3e-3 + (7680 + 3840) * 2e-6 + 3 * 3e-3);
  ExchangeOptions options;
  options.topology = Topology::nodes;
  options.transport = Transport::reduce;
  options.leaders = even_nodes(6, 2);
  options.chunk_bytes = 3840;
  EXPECT_DOUBLE_EQ(merge_seconds(small_unit(), load, 6, options, round_rates()),
                   nodes_seconds(load, {.links = 2}, round_rates(), 3840));
}

TEST(TopologyChoice, OwnersMergeLargeMatricesOfManyRanksAndTheRootSmallOnes) {
  for (const int ranks : {4, 8, 64}) {
    EXPECT_EQ(choose_topology(large_plan(ranks, 8192), {}, std::nullopt, ranks).topology, Topology::owners);
    EXPECT_EQ(choose_topology(large_plan(ranks, 64), {}, std::nullopt, ranks).topology, Topology::root);
  }
}

TEST(TopologyChoice, NodesShareTheirMemoryWhereTheyHaveSome) {
  ExchangeOptions options;
  options.leaders = even_nodes(4, 4);
  const auto shared = choose_topology(large_plan(4, 1024), options, std::nullopt, 4);
  EXPECT_EQ(shared.topology, Topology::nodes);
  EXPECT_LT(shared.nodes_seconds, shared.root_seconds);
  EXPECT_NE(shared.reason.find("nodes"), std::string::npos) << shared.reason;
  // Finishing is spread by owners alone: it counts where matrices are large.
  EXPECT_EQ(choose_topology(large_plan(4, 8192), options, std::nullopt, 4).topology, Topology::owners);
  ExchangeOptions two;
  two.leaders = even_nodes(2, 2);
  EXPECT_EQ(choose_topology(large_plan(2, 64), two, std::nullopt, 2).topology, Topology::root);
  for (const Transport fixed : {Transport::gather, Transport::reduce})
    EXPECT_NE(choose_topology(large_plan(4, 1024), options, fixed, 4).topology, Topology::nodes);
  options.deadline_seconds = 1;
  EXPECT_NE(choose_topology(large_plan(4, 1024), options, std::nullopt, 4).topology, Topology::nodes);
  options.deadline_seconds = 0;
  options.leaders = even_nodes(4, 1);
  const auto alone = choose_topology(large_plan(4, 1024), options, std::nullopt, 4);
  EXPECT_NE(alone.topology, Topology::nodes);
  EXPECT_EQ(alone.reason.find("nodes"), std::string::npos) << alone.reason;
}

TEST(TopologyChoice, GrowsWithRanksAtTheRootOnly) {
  // One more client a rank: the root's link is the limit, owners' links carry the same as before.
  const auto few = choose_topology(large_plan(8, 8192), {}, Transport::gather, 8);
  const auto many = choose_topology(large_plan(64, 8192), {}, Transport::gather, 64);
  EXPECT_GT(many.root_seconds, 5 * few.root_seconds) << "but for finishing, eight times as much";
  EXPECT_LT(many.owners_seconds, 1.3 * few.owners_seconds);
}

TEST(TopologyChoice, RespectsATransportAndSaysWhy) {
  const auto fixed = choose_topology(large_plan(8, 8192), {}, Transport::reduce, 8);
  EXPECT_EQ(fixed.topology, Topology::root);
  EXPECT_EQ(fixed.reason, "the transport is reduce");
  const auto alone = choose_topology(large_plan(1, 8192), {}, std::nullopt, 1);
  EXPECT_EQ(alone.topology, Topology::root);
  EXPECT_EQ(alone.reason, "one rank merges alone");
  const std::string reason = choose_topology(large_plan(4, 64), {}, std::nullopt, 4).reason;
  EXPECT_NE(reason.find("owners"), std::string::npos) << reason;
}

}  // namespace
}  // namespace fedspallm::comm
