// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/counts.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/prune/methods.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace fedspallm::prune {
namespace {

std::int64_t sum(const std::vector<std::int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

TEST(CountsByRegion, running_total_is_the_exact_count_at_each_end) {
  const std::vector<std::int64_t> sizes = {7, 1, 128, 0, 13, 64};
  for (const double sparsity : {0.0, 0.1, 1.0 / 3.0, 0.5, 0.55, 0.999, 1.0}) {
    const auto counts = counts_by_region(sparsity, sizes, {});
    std::int64_t end = 0, dropped = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      end += sizes[i];
      dropped += counts[i];
      EXPECT_EQ(dropped, exact_count(sparsity, end)) << sparsity << " region " << i;
      EXPECT_LE(counts[i], sizes[i]);
    }
  }
}

TEST(CountsByRegion, what_was_dropped_before_counts_first_and_the_total_stays_exact) {
  const std::vector<std::int64_t> sizes = {10, 10, 10, 10};
  const std::vector<std::int64_t> previous = {0, 9, 0, 8};
  const auto counts = counts_by_region(0.5, sizes, previous);
  EXPECT_EQ(sum(counts), 20);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_GE(counts[i], previous[i]);
    EXPECT_LE(counts[i], sizes[i]);
  }
}

TEST(CountsByRegion, more_dropped_before_than_asked_is_kept) {
  const std::vector<std::int64_t> sizes = {4, 4};
  const std::vector<std::int64_t> previous = {3, 4};
  EXPECT_EQ(counts_by_region(0.5, sizes, previous), previous);
}

TEST(CountsByRegion, refuses_a_previous_list_of_another_length) {
  const std::vector<std::int64_t> sizes = {4, 4};
  const std::vector<std::int64_t> previous = {3};
  EXPECT_THROW(counts_by_region(0.5, sizes, previous), LogicError);
}

TEST(SettingsOfRound, n_of_m_rounds_drop_whole_weights_and_end_at_the_pattern) {
  config::Config config;
  config.federation.rounds = 3;
  config.prune.pattern = {2, 8};
  config.prune.sparsity = 0.75;
  int drop = 0;
  for (int round = 1; round <= 3; ++round) {
    const Settings settings = settings_of_round(config, round);
    EXPECT_EQ(settings.pattern.group, 8);
    EXPECT_GE(8 - settings.pattern.keep, drop);
    drop = 8 - settings.pattern.keep;
    EXPECT_DOUBLE_EQ(settings.sparsity, drop / 8.0);
  }
  EXPECT_EQ(drop, 6);
}

TEST(MatrixPruner, names_the_matrix_whose_columns_n_of_m_does_not_divide) {
  Settings settings;
  settings.pattern = {2, 4};
  EXPECT_NO_THROW(MatrixPruner::check_shape(settings, "a.weight", 8));
  try {
    MatrixPruner::check_shape(settings, "layers.3.down.weight", 10);
    FAIL() << "expected ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("layers.3.down.weight"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("10 columns"), std::string::npos);
  }
  settings.block_size = 6;
  EXPECT_THROW(MatrixPruner::check_shape(settings, "a.weight", 12), ConfigError);
}

}  // namespace
}  // namespace fedspallm::prune
