// SPDX-License-Identifier: Apache-2.0
// Parity with transformers is in parity_test.cpp; here the formulas are checked in double, piece by piece.
#include "fedspallm/base/error.hpp"
#include "fedspallm/model/architecture.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace fedspallm::model {
namespace {

Architecture with_rope(const Rope& rope, std::int64_t head_dim) {
  Architecture architecture;
  architecture.head_dim = head_dim;
  architecture.rope = rope;
  return architecture;
}

/// The angle of position 1, from the tables.
double frequency(const RopeTables& tables, std::int64_t half, std::int64_t i) {
  const auto at = static_cast<std::size_t>(half + i);
  return std::atan2(static_cast<double>(tables.sine[at]), static_cast<double>(tables.cosine[at]));
}

TEST(RopeTables, HaveOneRowForEachPositionAndStartUnrotated) {
  const Architecture a = with_rope({.kind = RopeKind::standard}, 8);
  for (const std::int64_t positions : {0, 1, 5}) {
    const RopeTables tables = rope_tables(a, positions);
    EXPECT_EQ(tables.cosine.size(), static_cast<std::size_t>(positions * 4));
    EXPECT_EQ(tables.sine.size(), static_cast<std::size_t>(positions * 4));
    if (positions == 0) continue;
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(tables.cosine[i], 1.0F);
      EXPECT_EQ(tables.sine[i], 0.0F);
    }
  }
  EXPECT_THROW(static_cast<void>(rope_tables(a, -1)), LogicError);
}

TEST(RopeTables, AreEmptyForModelsWithoutRotation) {
  const RopeTables tables = rope_tables(with_rope({.kind = RopeKind::none}, 8), 4);
  EXPECT_TRUE(tables.cosine.empty() && tables.sine.empty());
}

TEST(RopeTables, StandardFrequenciesArePowersOfTheta) {
  const RopeTables tables = rope_tables(with_rope({.kind = RopeKind::standard, .theta = 5e5}, 12), 2);
  for (std::int64_t i = 0; i < 6; ++i)
    EXPECT_NEAR(frequency(tables, 6, i), std::pow(5e5, -2.0 * static_cast<double>(i) / 12), 1e-6);
}

TEST(RopeTables, LinearScalingDividesEveryFrequency) {
  const RopeTables tables = rope_tables(with_rope({.kind = RopeKind::linear, .factor = 4.0}, 8), 2);
  for (std::int64_t i = 0; i < 4; ++i)
    EXPECT_NEAR(frequency(tables, 4, i), std::pow(1e4, -2.0 * static_cast<double>(i) / 8) / 4.0, 1e-7);
}

TEST(RopeTables, Llama3KeepsShortWavesScalesLongOnesAndBlendsBetween) {
  const Rope rope{.kind = RopeKind::llama3,
                  .theta = 1e4,
                  .factor = 8,
                  .low_frequency_factor = 1,
                  .high_frequency_factor = 4,
                  .original_max_positions = 64};
  const std::int64_t half = 16;
  const RopeTables tables = rope_tables(with_rope(rope, 2 * half), 2);
  int kept = 0;
  int scaled = 0;
  int blended = 0;
  for (std::int64_t i = 0; i < half; ++i) {
    const double plain = std::pow(1e4, -static_cast<double>(i) / half);
    const double wave = 2 * std::numbers::pi / plain;
    double expected = plain;
    if (wave > 64.0) {
      expected = plain / 8;
      ++scaled;
    } else if (wave >= 16.0) {
      const double smooth = (64.0 / wave - 1.0) / 3.0;
      expected = (1 - smooth) * plain / 8 + smooth * plain;
      ++blended;
    } else {
      ++kept;
    }
    EXPECT_NEAR(frequency(tables, half, i), expected, 1e-6) << i;
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(scaled, 0);
  EXPECT_GT(blended, 0);
}

}  // namespace
}  // namespace fedspallm::model
