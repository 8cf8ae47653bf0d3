// SPDX-License-Identifier: Apache-2.0
// Virtual clients: their laws, their updates, their time, and the performance model, by numbers known
// beforehand.
#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "simulate/simulate_clock.hpp"
#include "simulate/simulate_forecast.hpp"
#include "simulate/simulate_updates.hpp"
#include <bit>
#include <cmath>

namespace fedspallm::app {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pointwise;

SimulatedModel known(config::ModelShape shape) {
  config::Config config;
  config.simulate = config::Simulate{.shape = shape};
  return simulated_model(config);
}

TEST(SimulatedModel, KnownShapesAreThePublishedOnes) {
  const SimulatedModel small = known(config::ModelShape::smollm2_135m);
  EXPECT_EQ(small.architecture.blocks, 30);
  EXPECT_EQ(small.block_weights(), 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536);
  const SimulatedModel seven = known(config::ModelShape::llama2_7b);
  EXPECT_EQ(seven.architecture.blocks, 32);
  EXPECT_EQ(seven.block_weights(), 202'375'168);
  EXPECT_EQ(seven.dtype, DType::bf16);
  const SimulatedModel seventy = known(config::ModelShape::llama2_70b);
  EXPECT_EQ(seventy.architecture.blocks, 80);
  EXPECT_EQ(seventy.block_weights(), 855'638'016);
}

TEST(SimulatedModel, PruningSmolLM2TakesTheMeasuredWork) {
  const SimulatedModel model = known(config::ModelShape::smollm2_135m);
  const BlockWork work = block_work(model.architecture, {.samples = 16, .sequence_length = 512});
  EXPECT_NEAR(30 * work.prune, 2.9e12, 0.05e12) << "2.9 TFLOP, counted in the program itself";
  EXPECT_LT(work.pass, work.prune);
}

config::Simulate plain() {
  return {.flops = 1e6, .spread = 0, .jitter = 0};
}

TEST(ClientLaws, WithoutSpreadEverybodyIsTheMedianClient) {
  const ClientLaws laws(plain(), 1, 1);
  for (std::uint32_t client = 0; client < 100; ++client) {
    EXPECT_EQ(laws.slowness(client), 1);
    EXPECT_EQ(laws.seconds(client, 3, 2e6), 2);
    EXPECT_EQ(laws.resources(client), 1);
    EXPECT_FALSE(laws.leaves_at(client, 10).has_value());
  }
}

TEST(ClientLaws, SharesAndSpreadsAreThoseOfTheLaw) {
  config::Simulate simulate = plain();
  simulate.spread = 0.5;
  simulate.stragglers = 0.2;
  simulate.straggler_factor = 100;
  simulate.dropouts = 0.3;
  simulate.least_resources = 0.4;
  const ClientLaws laws(simulate, 7, 1);
  constexpr int kClients = 20'000;
  double logs = 0, squares = 0, resources = 0;
  int stragglers = 0, leaving = 0, first_half = 0;
  for (std::uint32_t client = 0; client < kClients; ++client) {
    const double usual = std::log(laws.slowness(client) / (laws.straggles(client) ? 100 : 1));
    logs += usual;
    squares += usual * usual;
    stragglers += laws.straggles(client) ? 1 : 0;
    const auto leaves = laws.leaves_at(client, 10);
    leaving += leaves ? 1 : 0;
    if (leaves) {
      EXPECT_TRUE(*leaves >= 0 && *leaves < 10);
      first_half += *leaves < 5 ? 1 : 0;
    }
    const double able = laws.resources(client);
    EXPECT_TRUE(able >= 0.4 && able <= 1);
    resources += able;
  }
  // Five standard deviations of the mean of so many.
  EXPECT_NEAR(logs / kClients, 0, 5 * 0.5 / std::sqrt(kClients));
  EXPECT_NEAR(std::sqrt(squares / kClients), 0.5, 0.02);
  EXPECT_NEAR(stragglers, 0.2 * kClients, 5 * std::sqrt(0.16 * kClients));
  EXPECT_NEAR(leaving, 0.3 * kClients, 5 * std::sqrt(0.21 * kClients));
  EXPECT_NEAR(first_half, 0.15 * kClients, 5 * std::sqrt(0.1275 * kClients));
  EXPECT_NEAR(resources / kClients, 0.7, 0.01);
  EXPECT_EQ(ClientLaws(simulate, 7, 1).slowness(5), laws.slowness(5));
  EXPECT_NE(ClientLaws(simulate, 8, 1).slowness(5), laws.slowness(5));
}

ClockOptions one_second_blocks(double merge, double deadline = 0) {
  ClockOptions options;
  options.work = {.pass = 0.25e6, .prune = 1e6};
  options.deadline = deadline;
  options.merge_seconds = [merge](std::int64_t, std::int64_t) { return merge; };
  return options;
}

std::vector<std::vector<bool>> all_blocks(std::size_t clients, std::size_t blocks) {
  return {clients, std::vector<bool>(blocks, true)};
}

TEST(VirtualClock, MergesOverlapWithTheNextBlock) {
  const ClientLaws laws(plain(), 1, 1);
  const VirtualRound round = run_clock(all_blocks(3, 3), laws, one_second_blocks(0.5));
  EXPECT_THAT(round.merged, ElementsAre(1.5, 2.5, 3.5));
  EXPECT_THAT(round.clients, ElementsAre(3, 3, 3));
  EXPECT_EQ(round.compute_seconds, 3);
  EXPECT_EQ(round.merge_seconds, 1.5);
  EXPECT_EQ(round.seconds(), 3.5);
}

TEST(VirtualClock, SlowMergesHoldClientsBackByTheWindow) {
  const ClientLaws laws(plain(), 1, 1);
  const VirtualRound slow = run_clock(all_blocks(2, 8), laws, one_second_blocks(10));
  EXPECT_THAT(slow.merged, ElementsAre(11, 21, 31, 41, 51, 61, 71, 81));
  auto free_first = all_blocks(1, 7);
  ClockOptions options = one_second_blocks(0);
  options.merge_seconds = [](std::int64_t block, std::int64_t) { return block == 0 ? 100.0 : 0.0; };
  const VirtualRound round = run_clock(free_first, laws, options);
  EXPECT_THAT(round.merged, ElementsAre(101, 101, 101, 101, 101, 102, 103)) << "block 5 waits for block 0";
}

TEST(VirtualClock, BlocksThatAClientDoesNotPruneCostItAPass) {
  const ClientLaws laws(plain(), 1, 1);
  const VirtualRound round = run_clock({{true, false}, {false, true}}, laws, one_second_blocks(0));
  EXPECT_THAT(round.merged, ElementsAre(1, 1.25));
  EXPECT_THAT(round.clients, ElementsAre(1, 1));
}

TEST(VirtualClock, StragglersAreDroppedAtTheDeadlineAndNobodyElse) {
  config::Simulate simulate = plain();
  simulate.stragglers = 0.3;
  simulate.straggler_factor = 5;
  const ClientLaws laws(simulate, 11, 1);
  const VirtualRound waits = run_clock(all_blocks(40, 2), laws, one_second_blocks(0));
  EXPECT_THAT(waits.merged, ElementsAre(5, 10));
  EXPECT_THAT(waits.dropped, IsEmpty());
  const VirtualRound round = run_clock(all_blocks(40, 2), laws, one_second_blocks(0, 2));
  EXPECT_THAT(round.merged, ElementsAre(3, 3)) << "1 s and the deadline, then nobody is late any more";
  std::vector<std::uint32_t> late, slow;
  for (const comm::Dropped& one : round.dropped) {
    late.push_back(one.client);
    EXPECT_EQ(one.block, 0U);
    EXPECT_EQ(one.reason, "late");
    EXPECT_TRUE(one.late);
  }
  for (std::uint32_t client = 0; client < 40; ++client)
    if (laws.straggles(client)) slow.push_back(client);
  EXPECT_EQ(late, slow);
  EXPECT_FALSE(slow.empty());
}

TEST(VirtualClock, WhoLeavesIsMissingFromItsBlockOn) {
  config::Simulate simulate = plain();
  simulate.dropouts = 1;
  const ClientLaws laws(simulate, 3, 1);
  const VirtualRound round = run_clock(all_blocks(50, 4), laws, one_second_blocks(0));
  ASSERT_EQ(round.dropped.size(), 50U);
  std::vector<std::int64_t> left(4, 50);
  for (const comm::Dropped& one : round.dropped) {
    EXPECT_EQ(one.block, laws.leaves_at(one.client, 4));
    for (std::size_t block = one.block; block < 4; ++block) --left[block];
  }
  EXPECT_EQ(round.clients, left);
  EXPECT_THAT(round.uncovered, ElementsAre(3));
  EXPECT_THROW((void)run_clock({{true}, {true, false}}, laws, one_second_blocks(0)), LogicError);
}

/// One matrix of this shape, half kept.
comm::ExchangePlan plan_of(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t kept) {
  comm::ExchangePlan plan;
  plan.rank_of_client = {0, 0, 0};
  comm::PlannedUnit unit;
  unit.id = {1, 2, 3};
  unit.name = "matrix";
  unit.rows = rows;
  unit.cols = cols;
  unit.dtype = dtype;
  unit.with_diagonal = true;
  unit.clients = {0, 1, 2};
  unit.expected_kept = kept;
  plan.units = {unit};
  return plan;
}

TEST(UpdateMaker, UpdatesAreWhatTheirSummariesSay) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    for (const std::int64_t kept : {0, 1, 7, 32, 221, 440, 441}) {
      const comm::ExchangePlan plan = plan_of(21, 21, dtype, kept);
      const UpdateMaker maker(plan, {}, 5);
      const comm::UpdateSummary said = maker.summary(0, 1);
      const wire::MatrixUpdate update = maker.make(0, 1);
      EXPECT_EQ(said.kept, kept);
      EXPECT_EQ(wire::count_mask_bits(update.matrix.bits), kept);
      EXPECT_LE(wire::largest_magnitude(update.matrix), said.largest);
      EXPECT_EQ(wire::count_kept_zeros(update.matrix), 0);
      const wire::MatrixUpdate back = wire::decode(
          wire::encode(update),
          {.unit = {1, 2, 3}, .rows = 21, .cols = 21, .dtype = dtype, .with_diagonal = true, .client = 1});
      EXPECT_EQ(back.matrix.values, update.matrix.values) << "it was accepted";
    }
  }
}

TEST(UpdateMaker, ClientsDifferAndRepeatThemselves) {
  const comm::ExchangePlan plan = plan_of(64, 64, DType::bf16, 2048);
  const UpdateMaker maker(plan, {}, 5);
  const wire::MatrixUpdate one = maker.make(0, 1), two = maker.make(0, 2);
  EXPECT_EQ(one.matrix.bits, maker.make(0, 1).matrix.bits);
  EXPECT_EQ(one.matrix.values, UpdateMaker(plan, {}, 5).make(0, 1).matrix.values);
  EXPECT_NE(one.matrix.bits, UpdateMaker(plan, {}, 6).make(0, 1).matrix.bits);
  std::int64_t both = 0;
  for (std::size_t i = 0; i < one.matrix.bits.size(); ++i)
    both += std::popcount(one.matrix.bits[i] & two.matrix.bits[i]);
  EXPECT_NEAR(both, 1024, 5 * 32) << "independent masks share a quarter";
}

TEST(UpdateMaker, EachPlaceOfAWordIsKeptAsOftenAsAnother) {
  const comm::ExchangePlan plan = plan_of(256, 256, DType::bf16, 256 * 256 / 4);
  const UpdateMaker maker(plan, {}, 9);
  std::vector<int> kept(64);
  for (std::uint32_t client = 0; client < 20; ++client)
    for (const std::uint64_t word : maker.make(0, client).matrix.bits)
      for (int bit = 0; bit < 64; ++bit)
        kept[static_cast<std::size_t>(bit)] += static_cast<int>(word >> bit & 1);
  const double words = 20 * 1024;
  for (const int count : kept) EXPECT_NEAR(count / words, 0.25, 5 * std::sqrt(0.1875 / words));
}

TEST(UpdateMaker, PatternsHoldInEveryGroup) {
  const comm::ExchangePlan plan = plan_of(4, 36, DType::bf16, 4 * 36 / 3);
  const wire::MatrixUpdate update = UpdateMaker(plan, {.keep = 1, .group = 3}, 5).make(0, 0);
  for (std::int64_t group = 0; group < 48; ++group) {
    int kept = 0;
    for (std::int64_t i = group * 3; i < group * 3 + 3; ++i)
      kept += static_cast<int>(update.matrix.bits[static_cast<std::size_t>(i / 64)] >> (i % 64) & 1);
    EXPECT_EQ(kept, 1) << group;
  }
  EXPECT_THROW(UpdateMaker(plan, {.keep = 2, .group = 4}, 5), LogicError) << "another count was planned";
}

TEST(UpdateMaker, SlicesAreThoseOfTheWholeUpdate) {
  struct Case {
    std::int64_t rows, cols, kept;
    config::Pattern pattern;
    DType dtype;
  };
  for (const auto& [rows, cols, kept, pattern, dtype] :
       {Case{37, 45, 800, {}, DType::bf16}, Case{37, 45, 801, {}, DType::f32},
        Case{21, 21, 0, {}, DType::f16}, Case{21, 21, 441, {}, DType::bf16},
        Case{16, 45, 240, {.keep = 1, .group = 3}, DType::f16},
        Case{32, 64, 1024, {.keep = 2, .group = 4}, DType::bf16}}) {
    const comm::ExchangePlan plan = plan_of(rows, cols, dtype, kept);
    const UpdateMaker maker(plan, pattern, 5);
    const wire::MatrixUpdate whole = maker.make(0, 1);
    EXPECT_EQ(maker.make_diagonal(0, 1), whole.hessian_diagonal);
    for (const int owners : {1, 2, 3, 7, 40}) {
      std::int64_t value = 0;
      for (int owner = 0; owner < owners; ++owner) {
        const auto slice = aggregate::slice_of(rows, cols, pattern.group, owner, owners);
        const wire::PackedMatrix cut = wire::slice(whole.matrix, slice.begin, slice.end, value);
        const wire::PackedMatrix alone = maker.make_slice(0, 1, slice);
        EXPECT_EQ(alone.bits, cut.bits);
        EXPECT_EQ(alone.values, cut.values);
        EXPECT_EQ(alone.kept, cut.kept);
        EXPECT_EQ(maker.kept_of(0, slice), cut.kept);
        EXPECT_EQ(alone.rows, slice.size());
      }
    }
  }
}

TEST(PerformanceModel, FindsTheRatesThatMadeTheMeasurements) {
  const comm::ExchangePlan plan = plan_of(512, 512, DType::bf16, 512 * 256);
  comm::CostRates truth{
      .link_bytes_per_second = 5e9, .seconds_per_message = 1e-6, .add_seconds_per_weight = 2e-9};
  std::vector<comm::ExchangeOptions> ways(4);
  ways[1].transport = comm::Transport::reduce;
  ways[2].topology = comm::Topology::owners;
  ways[3].topology = comm::Topology::nodes;
  ways[3].transport = comm::Transport::reduce;
  ways[3].leaders = comm::even_nodes(3, 2);
  for (const comm::ExchangeOptions& way : ways) {
    const Layout layout{.ranks = 3, .root_hosts = false, .options = way};
    std::vector<MeasuredSize> sizes;
    for (const std::int64_t clients : {4, 16, 64})
      sizes.push_back({clients, 0.01 + formula_seconds(plan.units, clients, layout, truth), 0});
    comm::CostRates link = truth;
    link.add_seconds_per_weight = 77;
    const PerformanceModel model = fit_model(sizes, plan.units, layout, link);
    EXPECT_NEAR(model.rates.add_seconds_per_weight, 2e-9, 1e-13);
    EXPECT_NEAR(model.fixed_seconds, 0.01, 1e-6);
    EXPECT_FALSE(model.link_scaled);
    const double expected = 0.01 + formula_seconds(plan.units, 1024, layout, truth);
    EXPECT_NEAR(forecast_seconds(model, plan.units, 1024, layout), expected, 1e-4 * expected);
  }
}

TEST(PerformanceModel, RaisesALinkThatMeasuredSizesBeat) {
  const comm::ExchangePlan plan = plan_of(512, 512, DType::bf16, 512 * 256);
  const Layout layout{.ranks = 2, .root_hosts = false, .options = {}};
  const std::vector<MeasuredSize> sizes = {{4, 0.004, 0}, {8, 0.008, 0}};
  const comm::CostRates slow{.link_bytes_per_second = 1e6, .seconds_per_message = 1};
  const PerformanceModel model = fit_model(sizes, plan.units, layout, slow);
  EXPECT_TRUE(model.link_scaled);
  EXPECT_NEAR(forecast_seconds(model, plan.units, 100, layout), 0.1, 1e-4);
  EXPECT_THROW((void)fit_model(std::span(sizes).first(1), plan.units, layout, slow), LogicError);
}

TEST(PerformanceModel, ScalingFollowsFromComputeAndMerge) {
  const comm::ExchangePlan plan = plan_of(100, 100, DType::bf16, 5000);
  PerformanceModel model;
  model.rates = {.link_bytes_per_second = 1e15, .seconds_per_message = 0, .add_seconds_per_weight = 1e-5};
  const ScalingForecast forecast = forecast_scaling(model, plan.units, 10, 2.0, 8, 8);
  ASSERT_EQ(forecast.strong.size(), 16U) << "1, 2, 4, 8 GPUs four ways";
  const ScalingRow& one = forecast.strong[0];
  EXPECT_EQ(one.gpus, 1);
  EXPECT_DOUBLE_EQ(one.compute_seconds, 16);
  EXPECT_NEAR(one.merge_seconds, 0.8, 1e-9);
  EXPECT_NEAR(one.seconds, 16 + 9 * 16 + 0.8, 1e-9);
  EXPECT_EQ(one.efficiency, 1);
  const ScalingRow& eight = forecast.strong[3];
  EXPECT_EQ(eight.way, "gather");
  EXPECT_NEAR(eight.seconds, 2 + 9 * 2 + 0.8, 1e-6);
  EXPECT_NEAR(eight.efficiency, 160.8 / (8 * 20.8), 1e-6);
  const ScalingRow& shared = forecast.strong[11];
  EXPECT_EQ(shared.way, "owners");
  EXPECT_EQ(shared.gpus, 8);
  EXPECT_NEAR(shared.merge_seconds, 0.1, 1e-6) << "eight ranks add at once";
  const ScalingRow& on_a_node = forecast.strong[15];
  EXPECT_EQ(on_a_node.way, "nodes");
  EXPECT_EQ(on_a_node.gpus, 8);
  EXPECT_NEAR(on_a_node.merge_seconds, 0.1, 1e-6) << "eight ranks add at once, nothing travels";
  EXPECT_EQ(forecast.weak[3].clients, 8);
  EXPECT_NEAR(forecast.weak[3].efficiency, (2 + 9 * 2 + 0.1) / 20.8, 1e-6);
}

}  // namespace
}  // namespace fedspallm::app
