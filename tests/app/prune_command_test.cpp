// SPDX-License-Identifier: Apache-2.0
// What `prune` makes of its options.
#include <gtest/gtest.h>

#include "commands.hpp"

namespace fedspallm::app {
namespace {

TEST(NoProgress, is_as_by_default_where_the_limit_for_lost_ranks_is) {
  EXPECT_EQ(no_progress_seconds(30), 600);
  EXPECT_EQ(no_progress_seconds(60), 600);
  EXPECT_EQ(no_progress_seconds(300), 1200);
  EXPECT_EQ(no_progress_seconds(5), 20);
  EXPECT_EQ(no_progress_seconds(0), 0);
}

}  // namespace
}  // namespace fedspallm::app
