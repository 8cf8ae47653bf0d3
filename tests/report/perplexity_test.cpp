// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/perplexity.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "support/support.hpp"
#include <cmath>
#include <cstring>

namespace fedspallm::report {
namespace {

/// tokens.C of a golden model, and its expected mean NLL.
struct Golden {
  explicit Golden(const std::string& name)
      : folder(test::data_path(name)), model(folder), expected(folder / "expected.safetensors") {}
  [[nodiscard]] data::Windows windows(int client) const {
    const auto* entry = expected.find("tokens." + std::to_string(client));
    const auto bytes = expected.data(*entry);
    data::Windows result{entry->shape[0], entry->shape[1], std::vector<std::int32_t>(bytes.size() / 4)};
    std::memcpy(result.tokens.data(), bytes.data(), bytes.size());
    return result;
  }
  [[nodiscard]] double nll(int client) const {
    float value = 0;
    std::memcpy(&value, expected.data(*expected.find("dense.nll." + std::to_string(client))).data(), 4);
    return value;
  }
  std::filesystem::path folder;
  model::ModelDirectory model;
  model::SafetensorsFile expected;
};

TEST(Perplexity, of_a_golden_model_is_that_of_transformers) {
  const Golden golden("fixtures/llama-gqa-tied");
  const auto backend = backend::make_cpu_backend(1);
  const std::vector<data::Windows> sets = {golden.windows(0), golden.windows(1)};
  const auto sums = window_nll(golden.model, *backend, dense_source(golden.model, *backend), sets);
  ASSERT_EQ(sums.size(), 2U);
  for (int set = 0; set < 2; ++set) {
    const Perplexity result = perplexity_of(sums[set], sets[set].length);
    EXPECT_EQ(result.predictions, sets[set].samples * (sets[set].length - 1));
    EXPECT_NEAR(result.nll / golden.nll(set), 1.0, 1e-5);
    EXPECT_DOUBLE_EQ(result.perplexity, std::exp(result.nll));
  }
}

TEST(Perplexity, does_not_depend_on_the_memory_budget) {
  const Golden golden("fixtures/opt");
  const auto backend = backend::make_cpu_backend(2);
  const std::vector<data::Windows> sets = {golden.windows(0), golden.windows(0)};
  const auto source = dense_source(golden.model, *backend);
  const auto roomy = window_nll(golden.model, *backend, source, sets);
  EXPECT_EQ(window_nll(golden.model, *backend, source, sets, /*budget_bytes=*/1), roomy);
  EXPECT_EQ(roomy[0], roomy[1]);
}

TEST(Perplexity, is_in_fp32_whatever_the_backend_prunes_with) {
  const Golden golden("fixtures/llama-gqa-tied");
  const auto exact = backend::make_reference_backend();
  const auto rounding = backend::make_reference_backend(backend::Products::bf16);
  const std::vector<data::Windows> sets = {golden.windows(0)};
  EXPECT_EQ(window_nll(golden.model, *rounding, dense_source(golden.model, *rounding), sets),
            window_nll(golden.model, *exact, dense_source(golden.model, *exact), sets));
  EXPECT_EQ(rounding->kernel_set(), "reference/bf16") << "as before";
}

TEST(Perplexity, a_set_without_windows_gives_no_sums) {
  const Golden golden("fixtures/opt");
  const auto backend = backend::make_cpu_backend(1);
  const std::vector<data::Windows> sets = {data::Windows{0, 8, {}}};
  const auto sums = window_nll(golden.model, *backend, dense_source(golden.model, *backend), sets);
  EXPECT_TRUE(sums.at(0).empty());
  EXPECT_THROW((void)perplexity_of(sums[0], 8), LogicError);
}

TEST(Perplexity, needs_at_least_one_prediction) {
  const std::vector<double> sums = {1.0};
  EXPECT_THROW((void)perplexity_of(sums, 1), LogicError);
  EXPECT_DOUBLE_EQ(perplexity_of(sums, 3).nll, 0.5);
}

}  // namespace
}  // namespace fedspallm::report
