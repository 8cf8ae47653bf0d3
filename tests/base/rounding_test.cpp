// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/rounding.hpp"

#include <gtest/gtest.h>

namespace fedspallm {
namespace {

TEST(Rounding, CoversALengthWithTheFewestPieces) {
  EXPECT_EQ(divide_up(0, 7), 0);
  EXPECT_EQ(divide_up(1, 7), 1);
  EXPECT_EQ(divide_up(7, 7), 1);
  EXPECT_EQ(divide_up(8, 7), 2);
  EXPECT_EQ(divide_up(9, 1), 9);
  EXPECT_EQ(divide_up((std::int64_t{1} << 40) + 1, std::int64_t{1} << 20), (1 << 20) + 1) << "64 bits";
}

TEST(Rounding, FindsTheLeastMultipleThatIsNotBelow) {
  EXPECT_EQ(round_up(0, 64), 0);
  EXPECT_EQ(round_up(1, 64), 64);
  EXPECT_EQ(round_up(64, 64), 64);
  EXPECT_EQ(round_up(65, 64), 128);
  EXPECT_EQ(round_up(5, 1), 5);
}

}  // namespace
}  // namespace fedspallm
