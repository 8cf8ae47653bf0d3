// SPDX-License-Identifier: Apache-2.0
// A rank's clients without other ranks.
#include "client.hpp"

#include "fedspallm/backend/backend.hpp"

#include <gtest/gtest.h>

#include "app_support.hpp"
#include "support/support.hpp"
#include <filesystem>
#include <string>
#include <vector>

namespace fedspallm::app {
namespace {

class LocalClientsTest : public testing::Test {
 protected:
  void SetUp() override {
    config_ = config_for("goldens/llama-biases", 2);
    config_.run.dir = folder_.path().string();
    inputs_.model = std::make_unique<model::ModelDirectory>(config_.model.path);
    inputs_.rank_of_client = {0, 0};
    for (std::uint32_t client = 0; client < 2; ++client) {
      data::Windows windows{.samples = 4, .length = 32, .tokens = {}};
      for (std::int32_t token = 0; token < 4 * 32; ++token)
        windows.tokens.push_back((token * 7 + static_cast<std::int32_t>(client)) % 96);
      inputs_.clients.push_back({client, config_.clients[client].name, windows, ""});
    }
  }
  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path()))
      if (entry.is_regular_file()) names.push_back(entry.path().string());
    return names;
  }
  test::TemporaryFolder folder_;
  std::unique_ptr<backend::Backend> backend_ = backend::make_cpu_backend(1);
  config::Config config_;
  Inputs inputs_;
};

TEST_F(LocalClientsTest, measuring_leaves_no_file_and_no_other_trace) {
  LocalClients clients(*backend_, config_, inputs_, std::chrono::steady_clock::now(), {});
  clients.open_files(7, /*goes_on=*/false);
  const LocalClients::Cost cost = clients.measure();
  EXPECT_GT(cost.save_seconds, 0);
  EXPECT_GT(cost.block_seconds, 0);
  EXPECT_EQ(files(), std::vector<std::string>{});
  for (const ClientFiles& each : clients.files()) EXPECT_TRUE(each.states->positions().empty());
}

}  // namespace
}  // namespace fedspallm::app
