// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "app_support.hpp"

namespace fedspallm::app {
namespace {

const char* const kModel = "fixtures/llama-gqa-tied";  // 2 blocks of 7 matrices

TEST(RanksOfClients, go_round_robin_unless_the_config_says_otherwise) {
  config::Config config = config_for(kModel, 5);
  EXPECT_EQ(ranks_of_clients(config, 2), (std::vector<int>{0, 1, 0, 1, 0}));
  config.clients[1].rank = 0;
  EXPECT_EQ(ranks_of_clients(config, 2), (std::vector<int>{0, 0, 0, 1, 0}));
}

TEST(RanksOfClients, name_the_client_whose_rank_does_not_exist) {
  config::Config config = config_for(kModel, 2);
  config.clients[1].rank = 3;
  try {
    (void)ranks_of_clients(config, 2);
    FAIL() << "expected ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("client.c1.rank: found 3, expected 0 .. 1"), std::string::npos)
        << error.what();
  }
}

TEST(RanksOfClients, tell_of_all_that_are_wrong_at_once) {
  config::Config config = config_for(kModel, 3);
  config.clients[0].rank = 2;
  config.clients[2].rank = -1;
  try {
    (void)ranks_of_clients(config, 2);
    FAIL() << "expected ConfigError";
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("client.c0.rank: found 2"), std::string::npos) << message;
    EXPECT_NE(message.find("client.c2.rank: found -1"), std::string::npos) << message;
  }
}

TEST(PlanRound, names_every_matrix_of_every_block_in_delivery_order) {
  const config::Config config = config_for(kModel, 3);
  const model::ModelDirectory model(config.model.path);
  const RoundPlan plan = plan_round(config, model, ranks_of_clients(config, 2), {1, 0});
  ASSERT_EQ(plan.exchange.units.size(), 14U);
  for (std::size_t unit = 0; unit < 14; ++unit) {
    const comm::PlannedUnit& planned = plan.exchange.units[unit];
    EXPECT_EQ(planned.id,
              (wire::UnitId{1, static_cast<std::uint32_t>(unit / 7), static_cast<std::uint32_t>(unit % 7)}));
    EXPECT_EQ(planned.clients, (std::vector<std::uint32_t>{0, 1, 2}));
    EXPECT_EQ(planned.dtype, DType::bf16);
    EXPECT_EQ(plan.unit[unit / 7][unit % 7], unit);
  }
}

TEST(PlanRound, one_diagonal_per_input_group_travels_and_only_for_the_score_rule) {
  config::Config config = config_for(kModel, 2);
  const model::ModelDirectory model(config.model.path);
  const RoundPlan scored = plan_round(config, model, {0, 0}, {1, 0});
  const std::vector<bool> first = {true, false, false, true, true, false, true};  // q k v, o, gate up, down
  for (std::size_t unit = 0; unit < 7; ++unit)
    EXPECT_EQ(scored.exchange.units[unit].with_diagonal, first[unit]) << unit;
  EXPECT_EQ(scored.exchange.units[2].diagonal_unit, 0U);
  EXPECT_EQ(scored.exchange.units[5].diagonal_unit, 4U);
  config.federation.tie = config::Tie::magnitude;
  for (const auto& unit : plan_round(config, model, {0, 0}, {1, 0}).exchange.units)
    EXPECT_FALSE(unit.with_diagonal);
}

TEST(PlanRound, methods_without_a_hessian_break_ties_by_magnitude) {
  config::Config config = config_for(kModel, 2);
  config.prune.method = config::Method::magnitude;
  const model::ModelDirectory model(config.model.path);
  EXPECT_EQ(plan_round(config, model, {0, 0}, {1, 0}).rules.tie, aggregate::TieRule::magnitude);
}

TEST(PlanRound, blocks_that_nobody_draws_are_refused_or_warned_of) {
  config::Config config = config_for(kModel, 1);
  config.federation.layer_sampling = config::LayerSampling::resources;
  config.clients[0].resources = 0.5;  // one of two blocks
  const model::ModelDirectory model(config.model.path);
  EXPECT_THROW((void)plan_round(config, model, {0}, {1, 0}), ConfigError);
  config.federation.coverage = config::Coverage::warn;
  const RoundPlan plan = plan_round(config, model, {0}, {1, 0});
  ASSERT_EQ(plan.uncovered.size(), 1U);
  EXPECT_EQ(plan.exchange.units.size(), 7U);
  EXPECT_EQ(plan.unit[static_cast<std::size_t>(plan.uncovered[0])][0], kNoUnit);
}

TEST(PlanRound, stand_alone_runs_exchange_nothing) {
  config::Config config = config_for(kModel, 2);
  config.federation.aggregation = config::Aggregation::none;
  const model::ModelDirectory model(config.model.path);
  EXPECT_TRUE(plan_round(config, model, {0, 0}, {1, 0}).exchange.units.empty());
}

TEST(PlanRound, float32_models_send_float32) {
  config::Config config = config_for(kModel, 1);
  config.model.dtype = config::ModelDType::float32;
  const model::ModelDirectory model(config.model.path);
  EXPECT_EQ(plan_round(config, model, {0}, {1, 0}).exchange.units[0].dtype, DType::f32);
}

}  // namespace
}  // namespace fedspallm::app
