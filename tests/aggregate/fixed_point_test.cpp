// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "plain_merge.hpp"
#include "wire/random_matrix.hpp"
#include <cmath>
#include <limits>

namespace fedspallm::aggregate {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(FixedPointScale, IsExponentOfLargestPlusBitsOfClientsMinus56) {
  EXPECT_EQ(FixedPoint::covering(1.0F, 1).q, -56);
  EXPECT_EQ(FixedPoint::covering(1.5F, 1).q, -55);
  EXPECT_EQ(FixedPoint::covering(0.75F, 1).q, -56);
  EXPECT_EQ(FixedPoint::covering(0.5F, 1).q, -57);
  EXPECT_EQ(FixedPoint::covering(1.0F, 2).q, -55);
  EXPECT_EQ(FixedPoint::covering(1.0F, 3).q, -54);
  EXPECT_EQ(FixedPoint::covering(1.0F, 4).q, -54);
  EXPECT_EQ(FixedPoint::covering(1.0F, 5).q, -53);
  EXPECT_EQ(FixedPoint::covering(std::numeric_limits<float>::max(), 1).q, 128 - 56);
  EXPECT_EQ(FixedPoint::covering(std::numeric_limits<float>::denorm_min(), 1).q, -149 - 56);
}

TEST(FixedPointScale, CoversTheSumOfAllClients) {
  for (const float largest : {1e-45F, 1e-40F, 1e-30F, 0.3F, 1.0F, 6.1F, 3e38F})
    for (const std::int64_t clients : {1, 2, 3, 64, 65, 4096, (1 << 24) - 1}) {
      const FixedPoint scale = FixedPoint::covering(largest, clients);
      EXPECT_LE(static_cast<double>(quantize(largest, scale)) * static_cast<double>(clients),
                std::ldexp(1.0, 56));
      EXPECT_EQ(std::ldexp(static_cast<double>(quantize(largest, scale)), scale.q), largest);
    }
}

TEST(FixedPointScale, OfNothingRepresentsZero) {
  const FixedPoint scale = FixedPoint::covering(0.0F, 5);
  EXPECT_EQ(quantize(0.0F, scale), 0);
  EXPECT_EQ(quantize(-0.0F, scale), 0);
}

TEST(FixedPointScale, BrokenPreconditionsAreNamed) {
  EXPECT_THROW((void)FixedPoint::covering(kInfinity, 1), LogicError);
  EXPECT_THROW((void)FixedPoint::covering(kNaN, 1), LogicError);
  EXPECT_THROW((void)FixedPoint::covering(-1.0F, 1), LogicError);
  EXPECT_THROW((void)FixedPoint::covering(1.0F, 0), LogicError);
  EXPECT_THROW((void)FixedPoint::covering(1.0F, 1 << 24), LogicError);
  EXPECT_THROW((void)quantize(kNaN, {0}), LogicError);
  EXPECT_THROW((void)quantize(kInfinity, {0}), LogicError);
  EXPECT_THROW((void)quantize(1.5F, {-56}), LogicError);
}

TEST(Quantize, HalvesGoAwayFromZero) {
  EXPECT_EQ(quantize(0.5F, {0}), 1);
  EXPECT_EQ(quantize(-0.5F, {0}), -1);
  EXPECT_EQ(quantize(2.5F, {0}), 3);
  EXPECT_EQ(quantize(-2.5F, {0}), -3);
  EXPECT_EQ(quantize(2.25F, {0}), 2);
  EXPECT_EQ(quantize(std::nextafter(0.5F, 0.0F), {0}), 0);
  EXPECT_EQ(quantize(-std::nextafter(0.5F, 0.0F), {0}), 0);
  EXPECT_EQ(quantize(3.0F, {1}), 2);
}

TEST(Quantize, MultiplesOfTheUnitAreExact) {
  for (std::int64_t integer : {0, 1, -1, 3, 1000003, -16777215})
    EXPECT_EQ(quantize(std::ldexp(static_cast<float>(integer), -20), {-20}), integer);
  EXPECT_EQ(quantize(1.0F, {-56}), std::int64_t{1} << 56);
}

TEST(Quantize, EqualsThePlainDefinitionForAnyBitsAndScale) {
  const RandomKey key{.seed = 3, .use = RandomUse::simulation};
  int tried = 0;
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const std::uint64_t random = random_bits(key, i);
    const auto bits = static_cast<std::uint32_t>(random);
    float value = 0;
    std::memcpy(&value, &bits, 4);
    if (!std::isfinite(value)) continue;
    int exponent = 0;
    (void)std::frexp(value, &exponent);
    const int q = std::max(exponent - 56 + static_cast<int>((random >> 32) % 90), -205);
    ASSERT_EQ(quantize(value, {q}), test::plain_quantize(value, q)) << value << " q " << q;
    ++tried;
  }
  EXPECT_GT(tried, 190000);
}

}  // namespace
}  // namespace fedspallm::aggregate
