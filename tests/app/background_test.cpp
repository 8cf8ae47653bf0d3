// SPDX-License-Identifier: Apache-2.0
#include "background.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace fedspallm::app {
namespace {

TEST(Background, runs_tasks_in_order_and_finish_waits_for_them) {
  std::vector<int> order;
  Background background(2);
  for (int i = 0; i < 50; ++i) background.post([&order, i] { order.push_back(i); });
  background.finish();
  ASSERT_EQ(order.size(), 50U);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

TEST(Background, an_error_comes_back_and_later_tasks_do_not_run) {
  std::atomic<int> ran = 0;
  Background background(8);
  background.post([] { throw std::runtime_error("disk full"); });
  EXPECT_THROW(background.finish(), std::runtime_error);
  EXPECT_THROW(background.post([&] { ++ran; }), std::runtime_error);
  EXPECT_EQ(ran, 0);
}

TEST(Background, its_end_runs_what_is_queued) {
  std::atomic<int> ran = 0;
  {
    Background background(4);
    for (int i = 0; i < 4; ++i) background.post([&] { ++ran; });
  }
  EXPECT_EQ(ran, 4);
}

}  // namespace
}  // namespace fedspallm::app
