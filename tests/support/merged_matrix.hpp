// SPDX-License-Identifier: Apache-2.0
// Two finished merges are the same to the bit.
#pragma once

#include "fedspallm/aggregate/merge.hpp"

#include <gtest/gtest.h>

namespace fedspallm::test {

inline void expect_same(const aggregate::MergedMatrix& found, const aggregate::MergedMatrix& wanted) {
  EXPECT_EQ(found.matrix.rows, wanted.matrix.rows);
  EXPECT_EQ(found.matrix.cols, wanted.matrix.cols);
  EXPECT_EQ(found.matrix.dtype, wanted.matrix.dtype);
  EXPECT_EQ(found.matrix.kept, wanted.matrix.kept);
  EXPECT_TRUE(found.matrix.bits == wanted.matrix.bits);
  EXPECT_TRUE(found.matrix.values == wanted.matrix.values);
  EXPECT_TRUE(found.votes == wanted.votes);
  EXPECT_EQ(found.histogram, wanted.histogram);
  EXPECT_EQ(found.common_zeros, wanted.common_zeros);
  EXPECT_EQ(found.expanded, wanted.expanded);
  EXPECT_EQ(found.target, wanted.target);
  EXPECT_EQ(found.above_target, wanted.above_target);
  EXPECT_EQ(found.kept_zeros, wanted.kept_zeros);
}

}  // namespace fedspallm::test
