// SPDX-License-Identifier: Apache-2.0
// All 65,536 patterns of both 16-bit types, and all floats that decide between two of them.
#include "fedspallm/base/dtype.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace fedspallm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A 16-bit floating-point format, as its definition says: sign, exponent, fraction.
struct Format {
  DType type;
  int exponent_bits;
  int fraction_bits;
  std::uint16_t (*narrow)(float);
  float (*widen)(std::uint16_t);

  [[nodiscard]] int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  [[nodiscard]] std::uint32_t infinity() const { return ((1U << exponent_bits) - 1) << fraction_bits; }
  [[nodiscard]] double value(std::uint32_t magnitude) const {
    const int exponent = static_cast<int>(magnitude >> fraction_bits);
    const double fraction = magnitude & ((1U << fraction_bits) - 1);
    if (exponent == 0) return std::ldexp(fraction, 1 - bias() - fraction_bits);
    return std::ldexp(fraction + (1 << fraction_bits), exponent - bias() - fraction_bits);
  }
};
const Format kF16{DType::f16, 5, 10, &float_to_f16, &f16_to_float};
const Format kBf16{DType::bf16, 8, 7, &float_to_bf16, &bf16_to_float};

void PrintTo(const Format& value, std::ostream* stream) {
  *stream << name_of(value.type);
}

class SixteenBits : public ::testing::TestWithParam<Format> {};
INSTANTIATE_TEST_SUITE_P(Formats, SixteenBits, ::testing::Values(kF16, kBf16),
                         [](const auto& format) { return std::string(name_of(format.param.type)); });

TEST_P(SixteenBits, EveryPatternWidensAsDefined) {
  const Format& format = GetParam();
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const float found = format.widen(static_cast<std::uint16_t>(bits));
    const std::uint32_t magnitude = bits & 0x7fffU;
    ASSERT_EQ(std::signbit(found), bits >= 0x8000U) << bits;
    if (magnitude > format.infinity()) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else if (magnitude == format.infinity()) {
      ASSERT_EQ(std::abs(found), kInfinity) << bits;
    } else {
      ASSERT_EQ(std::abs(static_cast<double>(found)), format.value(magnitude)) << bits;
    }
  }
}

TEST_P(SixteenBits, EveryPatternSurvivesWideningAndNarrowing) {
  const Format& format = GetParam();
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const std::uint16_t back = format.narrow(format.widen(static_cast<std::uint16_t>(bits)));
    if ((bits & 0x7fffU) > format.infinity()) {
      ASSERT_GT(back & 0x7fffU, format.infinity()) << "NaN stays NaN: " << bits;
    } else {
      ASSERT_EQ(back, bits);
    }
  }
}

TEST_P(SixteenBits, FloatsBetweenTwoPatternsGoToTheNearerOneAndHalvesToTheEvenOne) {
  const Format& format = GetParam();
  for (std::uint32_t lower = 0; lower < format.infinity(); ++lower) {
    const std::uint32_t upper =
        lower + 1;  // for the largest finite value: infinity, where the next power of two would be
    const double end = upper == format.infinity() ? std::ldexp(1.0, format.bias() + 1) : format.value(upper);
    const double exact = (format.value(lower) + end) / 2;
    const auto middle = static_cast<float>(exact);
    ASSERT_EQ(static_cast<double>(middle), exact);
    for (const std::uint32_t sign : {0U, 0x8000U}) {
      const float side = sign != 0 ? -1.0F : 1.0F;
      ASSERT_EQ(format.narrow(side * middle), sign | (lower % 2 == 0 ? lower : upper)) << lower;
      ASSERT_EQ(format.narrow(side * std::nextafter(middle, 0.0F)), sign | lower) << lower;
      ASSERT_EQ(format.narrow(side * std::nextafter(middle, kInfinity)), sign | upper) << lower;
    }
  }
}

TEST_P(SixteenBits, OverflowGivesInfinityAndNaNStaysNaN) {
  const Format& format = GetParam();
  EXPECT_EQ(format.narrow(kInfinity), format.infinity());
  EXPECT_EQ(format.narrow(-kInfinity), format.infinity() | 0x8000U);
  EXPECT_EQ(format.narrow(std::numeric_limits<float>::max()), format.infinity());
  for (const std::uint32_t bits : {0x7f800001U, 0x7fc00000U, 0x7fffffffU, 0xff800001U, 0xffffffffU})
    EXPECT_GT(format.narrow(std::bit_cast<float>(bits)) & 0x7fffU, format.infinity());
}

TEST_P(SixteenBits, ArraysAreConvertedElementByElementAtAnyAlignment) {
  const Format& format = GetParam();
  for (const std::size_t count : {0U, 1U, 7U, 8U, 9U, 1000U}) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = std::sin(static_cast<float>(i)) * 3.0F;
    std::vector<unsigned char> stored(2 * count + 1);
    narrow(format.type, values.data(), stored.data() + 1, count);
    std::vector<float> back(count), rounded = values;
    widen(format.type, stored.data() + 1, back.data(), count);
    round_in_place(format.type, rounded);
    for (std::size_t i = 0; i < count; ++i) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, stored.data() + 1 + 2 * i, 2);
      ASSERT_EQ(bits, format.narrow(values[i]));
      ASSERT_EQ(back[i], format.widen(bits));
      ASSERT_EQ(back[i], round_to(format.type, values[i]));
      ASSERT_EQ(rounded[i], back[i]);
    }
  }
}

TEST(Float32, ConversionsAreCopies) {
  const float values[] = {0.1F, -0.0F, kInfinity, std::numeric_limits<float>::denorm_min()};
  float stored[4], back[4], rounded[4] = {values[0], values[1], values[2], values[3]};
  narrow(DType::f32, values, stored, 4);
  widen(DType::f32, stored, back, 4);
  round_in_place(DType::f32, rounded);
  EXPECT_EQ(std::memcmp(values, back, sizeof values), 0);
  EXPECT_EQ(std::memcmp(values, rounded, sizeof values), 0);
  EXPECT_EQ(round_to(DType::f32, 0.1F), 0.1F);
  narrow(DType::f32, nullptr, nullptr, 0);
  widen(DType::f32, nullptr, nullptr, 0);
}

TEST(DTypes, HaveSizesAndNames) {
  EXPECT_EQ(size_of(DType::f32), 4U);
  EXPECT_EQ(size_of(DType::f16), 2U);
  EXPECT_EQ(size_of(DType::bf16), 2U);
  EXPECT_EQ(name_of(DType::f32), "float32");
  EXPECT_EQ(name_of(DType::f16), "float16");
  EXPECT_EQ(name_of(DType::bf16), "bfloat16");
}

}  // namespace
}  // namespace fedspallm
