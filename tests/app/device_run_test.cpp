// SPDX-License-Identifier: Apache-2.0
// Clients prune on a device, updates stay there and travel to the root's, which merges them: the result has
// the bits that it has when everything goes through host memory. Built for the CPU backends and the emulated
// GPU with a link over MPI, and for real GPUs with NCCL (a rank for each, at least one).
#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/prune/block_pruner.hpp"

#include <gtest/gtest.h>

#include "app_support.hpp"
#include "comm/exchange_case.hpp"
#include "comm/host_device.hpp"
#include "device_transport.hpp"
#include "gpu_forecast.hpp"
#include "plan.hpp"
#include "support/backends.hpp"
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace fedspallm::app {
namespace {

constexpr int kClients = 3;

data::Windows windows_of(const model::ModelDirectory& model, const model::SafetensorsFile& expected,
                         int client) {
  const model::TensorEntry* entry = expected.find("tokens." + std::to_string(client % 2));
  data::Windows windows{entry->shape[0], entry->shape[1],
                        std::vector<std::int32_t>(expected.data(*entry).size() / 4)};
  std::memcpy(windows.tokens.data(), expected.data(*entry).data(), windows.tokens.size() * 4);
  for (std::int32_t& token : windows.tokens)  // the third client has a text of its own
    token = static_cast<std::int32_t>((token + 7 * (client / 2)) % model.architecture().vocab_size);
  return windows;
}

class DeviceRun : public testing::TestWithParam<std::string> {
 protected:
  DeviceRun() {
    for (int client = 0; client < kClients; ++client) rank_of_client_.push_back(client % comm_.size());
#if defined(FEDSPALLM_TEST_NCCL)
    const auto devices = static_cast<int>(backend::visible_cuda_devices().devices.size());
    device_ = comm_.node_rank() % std::max(1, devices);
#endif
    backend_ = GetParam() == "cuda" ? backend::make_cuda_backend(device_) : test::make_backend(GetParam());
  }

  [[nodiscard]] comm::ExchangeOptions options(comm::Transport transport, const aggregate::MergeRules& rules) {
    comm::ExchangeOptions options;
    options.transport = transport;
    options.rules = rules;
    if (transport != comm::Transport::nccl) return options;
    options.device = comm::test::host_device(comm_);
    options.device->port = make_device_port(*backend_);
#if defined(FEDSPALLM_TEST_NCCL)
    std::vector<int> ranks(static_cast<std::size_t>(comm_.size()));
    std::iota(ranks.begin(), ranks.end(), 0);
    options.device->link = comm::make_nccl_link(comm_, ranks, device_, 60);
#endif
    return options;
  }

  /// All clients through all blocks.
  std::vector<comm::test::Seen> run(comm::Transport transport) {
    const bool on_device = transport == comm::Transport::nccl;
    const RoundPlan plan = plan_round(config_, model_, rank_of_client_, {1, 0});
    std::vector<comm::test::Seen> seen;
    const auto take = [&](const comm::CompletedUnit& unit) {
      EXPECT_EQ(unit.finished != nullptr, on_device);
      seen.push_back(comm::test::copy_of(unit));
      if (!on_device)
        seen.back().finished = aggregate::finish(*unit.merge, std::ssize(unit.reports), plan.rules,
                                                 plan.exchange.units[unit.index].dtype, unit.diagonal_sums);
    };
    comm::Exchange exchange(comm_, plan.exchange, options(transport, plan.rules), take);
    const model::SafetensorsFile expected(config_.model.path / "expected.safetensors");
    prune::Workspace workspace(*backend_, model_.architecture(), windows_of(model_, expected, 0).length);
    std::vector<std::unique_ptr<prune::BlockPruner>> pruners;
    std::vector<std::uint32_t> own;
    for (std::uint32_t client = 0; client < kClients; ++client) {
      if (rank_of_client_[client] != comm_.rank()) continue;
      own.push_back(client);
      pruners.push_back(std::make_unique<prune::BlockPruner>(
          *backend_, model_, workspace, windows_of(model_, expected, static_cast<int>(client)),
          prune::BlockPruner::Identity{.client = client,
                                       .name = "c" + std::to_string(client),
                                       .hidden_on_device = !on_device,  // they take turns in a slot
                                       .stay_on_device = on_device}));
    }
    for (std::size_t block = 0; block < plan.unit.size(); ++block) {
      if (on_device) model::prefetch_block(model_, static_cast<std::int64_t>(block) + 1, *backend_);
      for (auto& pruner : pruners) {
        auto weights = model::load_block(model_, static_cast<std::int64_t>(block), *backend_);
        std::vector<DType> dtypes;
        for (std::size_t matrix = 0; matrix < weights.matrices.size(); ++matrix)
          dtypes.push_back(wire_dtype(config_, model_, static_cast<std::int64_t>(block), matrix));
        pruner->prune_block(plan.settings, 1, weights, dtypes, {},
                            [&](std::size_t matrix, wire::MatrixUpdate update) {
                              EXPECT_EQ(update.device != nullptr, on_device);
                              EXPECT_EQ(update.matrix.values.empty(), on_device);
                              exchange.submit(plan.unit[block][matrix], std::move(update));
                            });
      }
    }
    exchange.finish();
    return seen;
  }

  comm::Communicator comm_;
  config::Config config_ = config_for("fixtures/llama-gqa-tied", kClients);
  model::ModelDirectory model_{config_.model.path};
  std::vector<int> rank_of_client_;
  int device_ = 0;
  std::unique_ptr<backend::Backend> backend_;
};

TEST_P(DeviceRun, merges_to_the_bits_of_the_way_through_host_memory) {
  const auto through_host = run(comm::Transport::gather), on_device = run(comm::Transport::nccl);
  ASSERT_EQ(through_host.empty(), comm_.rank() != 0);
  ASSERT_EQ(through_host.size(), on_device.size());
  for (std::size_t unit = 0; unit < on_device.size(); ++unit)
    EXPECT_TRUE(on_device[unit] == through_host[unit]) << "unit " << unit;
}

TEST_P(DeviceRun, has_the_same_bits_when_its_phases_are_waited_for) {
  const auto plain = run(comm::Transport::nccl);
  ::setenv("FEDSPALLM_PHASE_TIMES", "1", 1);
  const auto timed = run(comm::Transport::nccl);
  ::unsetenv("FEDSPALLM_PHASE_TIMES");
  EXPECT_TRUE(plain == timed);
}

#if defined(FEDSPALLM_TEST_CUDA)
/// What the backend took against what was forecast, without the fixed parts of its workspace, which a model
/// this small does not fill: cuBLAS's is all of it that counts here.
TEST_P(DeviceRun, takes_no_more_memory_than_forecast) {
  (void)run(comm::Transport::nccl);
  GpuWork work = gpu_work(config_, model_, rank_of_client_, comm_.rank(), true);
  const model::SafetensorsFile expected(config_.model.path / "expected.safetensors");
  const data::Windows windows = windows_of(model_, expected, 0);
  for (std::int64_t& tokens : work.tokens) tokens = windows.samples * windows.length;
  work.sequence_length = windows.length;
  const GpuForecast forecast = forecast_gpu(model_.architecture(), work);
  constexpr std::int64_t kCublas = std::int64_t{32} << 20;
  constexpr std::int64_t kAlignment = std::int64_t{128} << 10;  // of many small updates
  const std::int64_t square =
      model_.architecture().intermediate_size * model_.architecture().intermediate_size * 4;
  const std::int64_t known = forecast.weights + forecast.activations + forecast.hessian + forecast.transfer +
                             forecast.ahead + forecast.all_hidden() + square;
  const std::int64_t found = backend_->peak_bytes() - kCublas;
  EXPECT_LE(found, known + kAlignment);
  EXPECT_GE(2 * found, known) << "and the forecast is not far too high";
}
#endif

TEST(ChooseDeviceTransport, says_why_updates_go_through_host_memory) {
  comm::Communicator comm;
  const auto backend = backend::make_reference_backend();
  const auto choose = [&](config::TransportKind kind, const std::optional<backend::CudaDevice>& device) {
    return choose_device_transport(comm, *backend, device, kind, true);
  };
  const DeviceChoice on_cpus = choose(config::TransportKind::automatic, std::nullopt);
  EXPECT_EQ(on_cpus.transport, nullptr);
  EXPECT_FALSE(on_cpus.warn) << "nobody expects GPUs to be used that are not there";
  EXPECT_TRUE(choose(config::TransportKind::gather, std::nullopt).reason.empty());
  const std::string refused =
      comm::test::thrown_by([&] { (void)choose(config::TransportKind::nccl, std::nullopt); });
  EXPECT_EQ(refused.substr(0, 2), "2:") << refused;
  EXPECT_NE(refused.find("the root, computes on a CPU"), std::string::npos) << refused;
  if (comm.size() == 1 && comm::nccl_built()) GTEST_SKIP() << "NCCL may be here";
  backend::CudaDevice shared;
  shared.uuid = "GPU-1";
  const DeviceChoice no_nccl = choose(config::TransportKind::automatic, shared);
  EXPECT_EQ(no_nccl.transport, nullptr);
  EXPECT_TRUE(no_nccl.warn);
  EXPECT_FALSE(no_nccl.reason.empty());
}

INSTANTIATE_TEST_SUITE_P(Backends, DeviceRun, testing::ValuesIn(test::backend_names()));

}  // namespace
}  // namespace fedspallm::app
