// SPDX-License-Identifier: Apache-2.0
// What kernels do with one element, on the CPU, against base/dtype.hpp and the C library in double.
#include <gtest/gtest.h>

#include "../../src/backend/cuda/elements.hpp"
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

namespace fedspallm::test {
namespace {

using namespace backend::cuda;

/// Floats of every exponent, both signs, with many last bits; infinities and NaN.
std::vector<float> all_kinds_of_floats() {
  std::vector<float> values;
  for (std::uint32_t exponent = 0; exponent < 256; ++exponent)
    for (const std::uint32_t mantissa :
         {0U, 1U, 0xfffU, 0x1000U, 0x1001U, 0x1fffU, 0x2fffU, 0x3000U, 0x3001U, 0x7fffU, 0x8000U, 0x8001U,
          0x17fffU, 0x18000U, 0x18001U, 0x400000U, 0x7fefffU, 0x7fffffU})
      for (const std::uint32_t sign : {0U, 0x80000000U})
        values.push_back(std::bit_cast<float>(sign | exponent << 23 | mantissa));
  std::uint32_t bits = 12345;
  for (int i = 0; i < 200000; ++i) {
    bits = bits * 1664525U + 1013904223U;
    values.push_back(std::bit_cast<float>(bits));
  }
  return values;
}

TEST(CudaElements, NarrowingHasTheBitsOfTheRestOfTheProgram) {
  for (const float value : all_kinds_of_floats()) {
    ASSERT_EQ(narrow_bf16(value), float_to_bf16(value)) << std::bit_cast<std::uint32_t>(value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(f16_to_float(narrow_f16(value))));
    } else {
      ASSERT_EQ(narrow_f16(value), float_to_f16(value)) << std::bit_cast<std::uint32_t>(value);
    }
  }
}

TEST(CudaElements, WideningIsExactForEveryStoredValue) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto stored = static_cast<std::uint16_t>(bits);
    ASSERT_EQ(bits_of(widen_bf16(stored)), std::bit_cast<std::uint32_t>(bf16_to_float(stored)));
    if (std::isnan(f16_to_float(stored))) {
      ASSERT_TRUE(std::isnan(widen_f16(stored)));
    } else {
      ASSERT_EQ(bits_of(widen_f16(stored)), std::bit_cast<std::uint32_t>(f16_to_float(stored))) << bits;
    }
  }
}

TEST(CudaElements, RoundingGoesThroughTheStoredType) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16})
    for (const float value : {0.0F, -0.0F, 1.0F / 3.0F, 65519.0F, 65520.0F, 1e-7F, -3e-8F, 2.9e-8F})
      EXPECT_EQ(bits_of(round_element(type, value)), bits_of(round_to(type, value))) << value;
}

TEST(CudaElements, KeysSortAsScoresDoAndZerosAreEqual) {
  const std::vector<float> ascending{-std::numeric_limits<float>::infinity(),
                                     -2.5F,
                                     -1.0F,
                                     -1e-40F,
                                     0.0F,
                                     1e-40F,
                                     1.0F,
                                     std::nextafter(1.0F, 2.0F),
                                     3e38F,
                                     std::numeric_limits<float>::infinity()};
  for (std::size_t i = 1; i < ascending.size(); ++i)
    EXPECT_LT(order_key(ascending[i - 1]), order_key(ascending[i])) << i;
  EXPECT_EQ(order_key(-0.0F), order_key(0.0F));
}

TEST(CudaElements, FiniteIsWhatTheLibrarySays) {
  for (const float value : all_kinds_of_floats()) ASSERT_EQ(is_finite(value), std::isfinite(value)) << value;
}

TEST(CudaElements, ActivationsAreAccurateInBothTails) {
  for (float x = -12.0F; x <= 12.0F; x += 0.01F) {
    const auto exact = static_cast<double>(x);
    const double gelu_exact = 0.5 * exact * std::erfc(-exact / std::numbers::sqrt2);
    EXPECT_NEAR(gelu(x), gelu_exact, 2e-6 * std::fabs(gelu_exact) * (1 + exact * exact)) << x;
    const double silu_exact = exact / (1.0 + std::exp(-exact));
    EXPECT_NEAR(silu(x), silu_exact, 1e-6 * std::fabs(silu_exact)) << x;
  }
  EXPECT_EQ(silu(-1000.0F), 0.0F);
  EXPECT_EQ(relu(-1.0F), 0.0F);
  EXPECT_EQ(relu(2.0F), 2.0F);
  EXPECT_TRUE(std::isnan(relu(std::nanf(""))));
}

TEST(CudaElements, GroupsKeepTheLargestAndTiesGoByIndex) {
  const std::array<float, 4> scores{2.0F, 1.0F, 1.0F, 3.0F};
  const auto kept = [&](int element, int keep) {
    return kept_in_group(element, keep, 4, [&](int i) { return scores[static_cast<std::size_t>(i)]; });
  };
  EXPECT_TRUE(kept(0, 2) && !kept(1, 2) && !kept(2, 2) && kept(3, 2));
  EXPECT_TRUE(!kept(1, 3) && kept(2, 3));  // of two equal ones the first goes
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(kept(i, 4) && !kept(i, 0));
}

/// Against arithmetic in long double, which holds a sum of 57 bits and rounds once.
TEST(CudaElements, MeansAreRoundedOnce) {
  std::uint64_t state = 99;
  for (int i = 0; i < 100000; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    const std::int64_t sum = static_cast<std::int64_t>(state) >> (7 + state % 40);
    const auto n = static_cast<std::uint32_t>(1 + (state >> 20) % 9);
    const double mean = mean_of(sum, n, power_of_two(-50));
    const long double exact = static_cast<long double>(sum) / n * 0x1p-50L;
    const auto nearest = static_cast<float>(exact);
    ASSERT_EQ(static_cast<float>(mean), nearest) << sum << " / " << n;
    const float stored_bf16 = widen_bf16(mean_to_bf16(mean)), stored_f16 = widen_f16(mean_to_f16(mean));
    const auto off = [&](float stored) { return std::fabs(static_cast<long double>(stored) - exact); };
    for (const int step : {-1, 1}) {
      const auto beside = static_cast<std::uint16_t>(mean_to_bf16(mean) + step);
      ASSERT_LE(off(stored_bf16), off(widen_bf16(beside))) << sum << " / " << n;
      const auto half_beside = static_cast<std::uint16_t>(mean_to_f16(mean) + step);
      if ((mean_to_f16(mean) & 0x7fffU) == 0) continue;  // beside 0 lie numbers of the other sign
      ASSERT_LE(off(stored_f16), off(widen_f16(half_beside))) << sum << " / " << n;
    }
  }
}

TEST(CudaElements, MergedGroupsLoseWhatFewestKeptThenTheSmallestThenTheFirst) {
  const std::array<MergeOrder, 5> orders{{{2, 9}, {1, 50}, {0, 0}, {2, 9}, {2, 4}}};
  const auto goes = [&](int element, int keep) {
    return goes_from_group(element, keep, 5, 4, [&](int i) { return orders[static_cast<std::size_t>(i)]; });
  };
  const int order[] = {1, 4, 0, 3};  // the third weight went before
  for (int keep = 0; keep <= 5; ++keep)
    for (int place = 0; place < 4; ++place) EXPECT_EQ(goes(order[place], keep), place < 4 - keep) << keep;
}

}  // namespace
}  // namespace fedspallm::test
