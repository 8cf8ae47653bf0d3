// SPDX-License-Identifier: Apache-2.0
#include "forecast.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "app_support.hpp"
#include <algorithm>
#include <fstream>

namespace fedspallm::app {
namespace {

const char* const kModel = "fixtures/llama-gqa-tied";

TEST(Forecast, wire_bytes_are_those_of_the_remote_clients_updates) {
  config::Config config = config_for(kModel, 3);
  config.federation.transport = config::TransportKind::gather;
  const model::ModelDirectory model(config.model.path);
  const Forecast alone = forecast(config, model, 1, 0);
  EXPECT_EQ(alone.ranks.at(0).wire_bytes, 0);
  const Forecast two = forecast(config, model, 2, 0);  // client 1 is on rank 1
  std::int64_t payload = 0;
  const RoundPlan plan = plan_round(config, model, {0, 1, 0}, {1, 0});
  for (const auto& unit : plan.exchange.units)
    payload += wire::encoded_bytes(unit.rows, unit.cols, unit.expected_kept, unit.dtype, unit.with_diagonal);
  EXPECT_GE(two.ranks.at(1).wire_bytes, payload);
  EXPECT_LE(static_cast<double>(two.ranks.at(1).wire_bytes), 1.05 * static_cast<double>(payload) + 14 * 256);
}

TEST(Forecast, root_merge_memory_does_not_depend_on_the_number_of_remote_clients) {
  const auto transfer = [](int clients) {
    config::Config config = config_for(kModel, clients);
    for (auto& client : config.clients) client.rank = 1;
    const model::ModelDirectory model(config.model.path);
    return forecast(config, model, 2, 0).ranks.at(0).transfer_bytes;
  };
  EXPECT_EQ(transfer(4), transfer(64));
}

TEST(Forecast, ranks_with_clients_have_two_merge_states_where_sums_travel) {
  config::Config config = config_for(kModel, 1);
  config.clients.at(0).rank = 1;
  const model::ModelDirectory model(config.model.path);
  std::int64_t largest = 0;
  for (const auto& matrix : model.architecture().matrices)
    largest = std::max(largest, matrix.rows * matrix.cols);
  const auto transfer = [&](config::TransportKind transport, std::size_t rank) {
    config.federation.transport = transport;
    config.federation.topology = config::TopologyKind::root;
    return forecast(config, model, 3, 0).ranks.at(rank).transfer_bytes;
  };
  using enum config::TransportKind;
  EXPECT_EQ(transfer(reduce, 1) - transfer(gather, 1), 2 * 12 * largest);
  EXPECT_EQ(transfer(reduce, 2), 0) << "it takes part in no chain";
}

TEST(Forecast, owners_share_the_bytes_that_a_root_would_receive) {
  config::Config config = config_for(kModel, 4);
  const model::ModelDirectory model(config.model.path);
  config.federation.topology = config::TopologyKind::owners;
  const Forecast found = forecast(config, model, 4, 0);
  EXPECT_EQ(found.topology, "owners");
  EXPECT_EQ(found.transport, "gather");
  for (const RankForecast& rank : found.ranks) EXPECT_GT(rank.wire_bytes, 0);
  config.federation.topology = config::TopologyKind::root;
  EXPECT_GT(found.ranks.at(1).transfer_bytes, forecast(config, model, 4, 0).ranks.at(1).transfer_bytes)
      << "every owner has merge states, and writes blocks";
}

TEST(Forecast, a_node_has_two_states_and_its_leader_alone_sends_sums) {
  config::Config config = config_for(kModel, 4);
  const model::ModelDirectory model(config.model.path);
  config.federation.topology = config::TopologyKind::nodes;
  const Forecast found = forecast(config, model, 4, 0, {0, 0, 2, 2});
  EXPECT_EQ(found.topology, "nodes");
  EXPECT_EQ(found.transport, "reduce");
  EXPECT_GT(found.ranks.at(2).wire_bytes, 50 * found.ranks.at(3).wire_bytes);
  EXPECT_GT(found.ranks.at(2).transfer_bytes, found.ranks.at(3).transfer_bytes);
  EXPECT_EQ(found.ranks.at(3).transfer_bytes, found.ranks.at(1).transfer_bytes);
  const Forecast alone = forecast(config, model, 4, 0);
  EXPECT_EQ(alone.ranks.at(1).wire_bytes, alone.ranks.at(3).wire_bytes) << "every rank a node of its own";
  config.federation.topology = config::TopologyKind::automatic;
  EXPECT_EQ(forecast(config, model, 2, 0, {0, 0}).reasons.front().find("topology root"), 0U)
      << "matrices are tiny";
}

TEST(Forecast, refuses_what_does_not_fit_with_both_numbers) {
  const config::Config config = config_for(kModel, 2);
  const model::ModelDirectory model(config.model.path);
  const Forecast expected = forecast(config, model, 2, 1000);
  const std::int64_t need = expected.ranks[0].peak_bytes() + expected.ranks[1].peak_bytes();
  EXPECT_NO_THROW(check_fits(expected, need, 2, expected.disk.all()));
  EXPECT_THROW(check_fits(expected, need - 1, 2, expected.disk.all()), ResourceError);
  EXPECT_NO_THROW(check_fits(expected, need - 1, 1, expected.disk.all()));  // one rank a host
  EXPECT_THROW(check_fits(expected, need, 2, expected.disk.all() - 1), ResourceError);
}

TEST(Forecast, disk_counts_saved_states_and_leaves_out_what_is_there_already) {
  config::Config config = config_for(kModel, 2);
  const model::ModelDirectory model(config.model.path);
  const Forecast expected = forecast(config, model, 2, 0);
  ASSERT_EQ(model.architecture().blocks, 2);  // so one state a client: before the second block
  EXPECT_EQ(expected.disk.states, expected.ranks[0].hidden_bytes + expected.ranks[1].hidden_bytes);
  EXPECT_NE(to_text(expected).find(", states "), std::string::npos);
  const std::int64_t memory = std::int64_t{1} << 50;
  DiskBytes in_use = {.model = 0, .run = expected.disk.run, .clients = 1 << 30, .states = 0};
  const std::int64_t rest = expected.disk.model + expected.disk.states;
  EXPECT_NO_THROW(check_fits(expected, memory, 1, rest, in_use));
  EXPECT_THROW(check_fits(expected, memory, 1, rest - 1, in_use), ResourceError);
}

TEST(Forecast, advises_not_to_keep_clients_only_where_they_are_kept) {
  config::Config config = config_for(kModel, 2);
  const model::ModelDirectory model(config.model.path);
  const auto advice = [&] {
    try {
      check_fits(forecast(config, model, 1, 0), std::int64_t{1} << 50, 1, 0);
    } catch (const ResourceError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(advice().find("keep_clients"), std::string::npos) << advice();
  config.run.keep_clients = true;
  EXPECT_NE(advice().find("run.keep_clients = false"), std::string::npos) << advice();
}

TEST(Forecast, disk_in_use_is_what_lies_in_the_folders_of_a_run) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(disk_in_use(folder.path() / "nowhere").all(), 0);
  std::filesystem::create_directories(folder.path() / "state" / "client");
  std::ofstream(folder.path() / "state" / "client" / "r01-b0001.state") << "12345";
  std::filesystem::create_directories(folder.path() / "model.part");
  std::ofstream(folder.path() / "model.part" / "config.json") << "123";
  const DiskBytes found = disk_in_use(folder.path());
  EXPECT_EQ(found.states, 5);
  EXPECT_EQ(found.model, 3);
  EXPECT_EQ(found.all(), 8);
}

TEST(Forecast, text_has_a_line_per_rank) {
  const config::Config config = config_for(kModel, 2);
  const model::ModelDirectory model(config.model.path);
  const std::string text = to_text(forecast(config, model, 3, 0));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1 + 3 + 1 + 2) << "why this topology and transport";
}

}  // namespace
}  // namespace fedspallm::app
