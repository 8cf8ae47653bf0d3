// SPDX-License-Identifier: Apache-2.0
// Expected sizes: arithmetic by hand from the shapes of LLaMA-2-7B and -70B (docs/gpu.md has the table).
#include "gpu_forecast.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "setup.hpp"

namespace fedspallm::app {
namespace {

model::Architecture llama(std::int64_t hidden, std::int64_t intermediate, std::int64_t heads,
                          std::int64_t kv_heads) {
  model::Architecture architecture;
  architecture.hidden_size = hidden;
  architecture.intermediate_size = intermediate;
  architecture.heads = heads;
  architecture.kv_heads = kv_heads;
  architecture.head_dim = 128;
  using model::InputGroup;
  using model::MatrixRole;
  const std::int64_t keys = kv_heads * 128;
  architecture.matrices = {{MatrixRole::query, InputGroup::qkv, "q", hidden, hidden},
                           {MatrixRole::key, InputGroup::qkv, "k", keys, hidden},
                           {MatrixRole::value, InputGroup::qkv, "v", keys, hidden},
                           {MatrixRole::attention_output, InputGroup::attention_output, "o", hidden, hidden},
                           {MatrixRole::gate, InputGroup::mlp_in, "gate", intermediate, hidden},
                           {MatrixRole::up, InputGroup::mlp_in, "up", intermediate, hidden},
                           {MatrixRole::down, InputGroup::mlp_out, "down", hidden, intermediate}};
  return architecture;
}
model::Architecture llama_7b() {
  return llama(4096, 11008, 32, 32);
}
model::Architecture llama_70b() {
  return llama(8192, 28672, 64, 8);
}

GpuWork work(std::size_t clients) {
  GpuWork result;
  result.tokens.assign(clients, std::int64_t{128} * 2048);
  result.sequence_length = 2048;
  result.updates_on_device = result.merges_on_device = true;
  result.stored_block_bytes = 2 * std::int64_t{202375168};  // 7B's in 16 bits
  return result;
}

constexpr std::int64_t kGiga = 1'000'000'000;

TEST(GpuForecast, parts_are_what_the_shapes_say) {
  const GpuForecast seven = forecast_gpu(llama_7b(), work(1));
  EXPECT_EQ(seven.hidden, std::vector<std::int64_t>{std::int64_t{262144} * 4096 * 4});
  EXPECT_EQ(seven.weights, std::int64_t{202375168} * 4 + std::int64_t{4096} * 11008);
  EXPECT_EQ(seven.hessian, 2 * std::int64_t{11008} * 11008 * 4);
  EXPECT_GT(seven.activations, std::int64_t{262144} * 11008 * 4);
  EXPECT_LT(seven.activations, std::int64_t{262144} * 11008 * 4 + 2 * kGiga) << "a batch of 8192 tokens";
  EXPECT_GE(seven.workspace, std::int64_t{11008} * 11008 * 4);
}

TEST(GpuForecast, seven_billion_fit_24_gb_and_seventy_fit_80) {
  for (const auto products : {config::Products::f32, config::Products::bf16}) {
    GpuWork one = work(1);
    one.products = products;
    EXPECT_LT(forecast_gpu(llama_7b(), one).most(), 24 * kGiga);
    one.stored_block_bytes = 2 * std::int64_t{855638016};  // 70B's
    EXPECT_LT(forecast_gpu(llama_70b(), one).most(), 80 * kGiga);
  }
  EXPECT_GT(forecast_gpu(llama_7b(), work(1)).most(), 18 * kGiga) << "the largest parts are counted";
  EXPECT_GT(forecast_gpu(llama_70b(), work(1)).most(), 52 * kGiga);
}

TEST(GpuForecast, more_clients_than_fit_spill_and_still_fit) {
  const GpuForecast four = forecast_gpu(llama_7b(), work(4));
  EXPECT_GT(four.most(), 24 * kGiga);
  const auto placement = place_hidden(four.hidden, 24 * kGiga - four.fixed());
  ASSERT_TRUE(placement.has_value());
  EXPECT_GT(placement->host_bytes, 0);
  EXPECT_LE(four.fixed() + placement->device_bytes, 24 * kGiga);
}

TEST(GpuForecast, the_other_order_and_methods_need_other_things) {
  GpuWork block = work(1);
  block.order = config::Order::block;
  const GpuForecast staged = forecast_gpu(llama_7b(), work(1)), dense = forecast_gpu(llama_7b(), block);
  EXPECT_LT(dense.activations, staged.activations) << "a batch instead of a stage";
  EXPECT_GT(dense.hessian, staged.hessian) << "four Hessians at once";
  GpuWork magnitude = work(1);
  magnitude.method = config::Method::magnitude;
  EXPECT_EQ(forecast_gpu(llama_7b(), magnitude).hessian, 0);
  GpuWork host = work(1);
  host.updates_on_device = host.merges_on_device = false;
  EXPECT_EQ(forecast_gpu(llama_7b(), host).transfer, 0);
}

TEST(GpuForecast, a_rank_without_clients_needs_the_merge_only) {
  GpuWork root = work(0);
  const GpuForecast forecast = forecast_gpu(llama_7b(), root);
  EXPECT_EQ(forecast.weights + forecast.activations + forecast.hessian + forecast.all_hidden(), 0);
  // Sums and counts, 16-bit averages, votes, bits; room for three updates of 9 bits a weight.
  EXPECT_EQ(forecast.transfer, std::int64_t{4096} * 11008 * (12 + 2 + 1) + std::int64_t{4096} * 11008 / 8 +
                                   3 * (std::int64_t{4096} * 11008 / 8 * 9));
  root.tokens = {-1};
  EXPECT_THROW((void)forecast_gpu(llama_7b(), root), LogicError);
}

TEST(PlaceHidden, keeps_all_where_all_fit) {
  const auto placement = place_hidden({10, 20, 30}, 60);
  ASSERT_TRUE(placement.has_value());
  EXPECT_EQ(placement->on_device, (std::vector<bool>{true, true, true}));
  EXPECT_EQ(placement->device_bytes, 60);
  EXPECT_EQ(placement->host_bytes, 0);
}

TEST(PlaceHidden, keeps_the_first_ones_and_a_slot_for_the_largest_of_the_others) {
  const auto placement = place_hidden({10, 20, 30}, 59);
  ASSERT_TRUE(placement.has_value());  // without the last one 30 + a slot of 30 do not fit: two leave
  EXPECT_EQ(placement->on_device, (std::vector<bool>{true, false, false}));
  EXPECT_EQ(placement->device_bytes, 10 + 30);
  EXPECT_EQ(placement->host_bytes, 50);
}

TEST(PlaceHidden, one_at_a_time_is_the_least) {
  EXPECT_EQ(place_hidden({10, 20, 30}, 30)->on_device, (std::vector<bool>{false, false, false}));
  EXPECT_FALSE(place_hidden({10, 20, 30}, 29).has_value());
  EXPECT_TRUE(place_hidden({}, 0).has_value());
  EXPECT_FALSE(place_hidden({1}, -5).has_value());
}

TEST(PlanGpu, brings_weights_ahead_before_more_than_one_clients_states_stay) {
  GpuForecast forecast;
  forecast.weights = 100;
  forecast.ahead = 20;
  forecast.hidden = {30, 30};
  EXPECT_EQ(plan_gpu(forecast, 180).peak_bytes, 180);
  EXPECT_TRUE(plan_gpu(forecast, 180).load_ahead);
  EXPECT_EQ(plan_gpu(forecast, 180).hidden.host_bytes, 0);
  const GpuPlan less = plan_gpu(forecast, 179);
  EXPECT_TRUE(less.load_ahead && less.hidden.host_bytes > 0 && less.fits);
  EXPECT_EQ(less.peak_bytes, 150);
  const GpuPlan least = plan_gpu(forecast, 149);
  EXPECT_FALSE(least.load_ahead);
  EXPECT_TRUE(least.fits && least.hidden.host_bytes > 0);
  EXPECT_EQ(least.peak_bytes, 130);
  const GpuPlan none = plan_gpu(forecast, 129);
  EXPECT_FALSE(none.fits);
  EXPECT_EQ(none.hidden.on_device, (std::vector<bool>{false, false}));
  EXPECT_EQ(none.peak_bytes, 130);
}

TEST(GpuForecast, ranks_that_share_a_gpu_share_its_memory) {
  backend::CudaDevices visible;
  EXPECT_EQ(gpu_memory_of_rank(visible, 3), 0);
  visible.devices.resize(2);
  visible.devices[0].memory_bytes = 90;
  visible.devices[1].memory_bytes = 80;
  EXPECT_EQ(gpu_memory_of_rank(visible, 1), 80);
  EXPECT_EQ(gpu_memory_of_rank(visible, 2), 80);
  EXPECT_EQ(gpu_memory_of_rank(visible, 4), 40);
  EXPECT_EQ(gpu_memory_of_rank(visible, 5), 26) << "three ranks on one of them";
  EXPECT_THROW((void)gpu_memory_of_rank(visible, 0), LogicError);
}

TEST(GpuForecast, text_says_where_hidden_states_go) {
  const GpuForecast four = forecast_gpu(llama_7b(), work(4));
  EXPECT_NE(to_text(2, four, 0).find("GPU of rank 2"), std::string::npos);
  EXPECT_NE(to_text(0, four, 0).find("one client's at a time"), std::string::npos);
  EXPECT_NE(to_text(0, four, 24 * kGiga).find("rest in host memory"), std::string::npos);
  EXPECT_NE(to_text(0, four, 200 * kGiga).find("hidden states of 4 of 4 clients stay"), std::string::npos);
  EXPECT_NE(to_text(0, four, 8 * kGiga).find("does not fit"), std::string::npos);
}

}  // namespace
}  // namespace fedspallm::app
