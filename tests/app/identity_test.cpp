// SPDX-License-Identifier: Apache-2.0
#include "identity.hpp"

#include <gtest/gtest.h>

namespace fedspallm::app {
namespace {

TEST(KernelSets, AreThoseOfTheRanksThatPruneEachOnce) {
  EXPECT_EQ(joined_kernel_sets({"cpu/avx2", "cpu/avx2", ""}), "cpu/avx2");
  EXPECT_EQ(joined_kernel_sets({"", "cpu/avx512", "cpu/avx2", "cpu/avx512"}), "cpu/avx2 + cpu/avx512")
      << "in one order, whichever ranks they are";
  EXPECT_EQ(joined_kernel_sets({}), "");
}

}  // namespace
}  // namespace fedspallm::app
