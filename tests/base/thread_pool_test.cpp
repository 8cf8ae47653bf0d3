// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/thread_pool.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace fedspallm {
namespace {

TEST(ThreadPool, RunsEveryUnitOnceOnWorkersOfItsSize) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const std::int64_t units : {0, 1, 2, 7, 64, 1000}) {
      std::vector<std::atomic<int>> done(static_cast<std::size_t>(units));
      std::atomic<bool> worker_in_range{true};
      pool.run(units, [&](std::int64_t unit, int worker) {
        ++done[static_cast<std::size_t>(unit)];
        if (worker < 0 || worker >= threads) worker_in_range = false;
      });
      for (const auto& times : done) EXPECT_EQ(times.load(), 1);
      EXPECT_TRUE(worker_in_range);
    }
  }
}

TEST(ThreadPool, AWorkerNumberBelongsToOneThread) {
  ThreadPool pool(4);
  std::vector<std::set<std::thread::id>> ids(4);  // each written by its own worker only
  pool.run(400, [&](std::int64_t, int worker) {
    ids[static_cast<std::size_t>(worker)].insert(std::this_thread::get_id());
    std::this_thread::yield();
  });
  std::set<std::thread::id> all;
  for (const auto& of_worker : ids) {
    EXPECT_LE(of_worker.size(), 1U);
    for (const auto id : of_worker) EXPECT_TRUE(all.insert(id).second);
  }
  EXPECT_TRUE(ids[0].empty() || *ids[0].begin() == std::this_thread::get_id());
}

TEST(ThreadPool, ResultsAreVisibleAfterRun) {
  ThreadPool pool(3);
  std::vector<std::int64_t> squares(5000);
  for (int repeat = 0; repeat < 50; ++repeat) {
    pool.run(5000,
             [&](std::int64_t unit, int) { squares[static_cast<std::size_t>(unit)] = unit * unit + repeat; });
    for (std::int64_t i = 0; i < 5000; i += 499)
      ASSERT_EQ(squares[static_cast<std::size_t>(i)], i * i + repeat);
  }
}

TEST(ThreadPool, TheExceptionOfAUnitIsRethrownAndTheRestIsSkipped) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    std::atomic<std::int64_t> done{0};
    // The others take a while each: all of them together take far longer than an exception may need on a busy
    // machine.
    const auto failing = [&](std::int64_t unit, int) {
      if (unit == 3) throw std::runtime_error("unit three");
      if (unit > 3) std::this_thread::sleep_for(std::chrono::microseconds(100));
      ++done;
    };
    try {
      pool.run(1000000, failing);
      FAIL() << "no exception";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "unit three");
    }
    EXPECT_LT(done.load(), 1000000 - 1);
  }
}

TEST(ThreadPool, WorksAgainAfterAnException) {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    EXPECT_THROW(pool.run(10, [](std::int64_t, int) { throw DataError("all fail"); }), DataError);
    std::atomic<int> done{0};
    pool.run(10, [&](std::int64_t, int) { ++done; });
    EXPECT_EQ(done.load(), 10);
  }
}

TEST(ThreadPool, UnitsRunAtTheSameTime) {
  // Two units that wait for each other end only on two threads.
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  pool.run(2, [&](std::int64_t, int) {
    ++arrived;
    while (arrived.load() < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived.load(), 2);
}

TEST(ThreadPool, NeedsAtLeastOneThread) {
  EXPECT_THROW(ThreadPool(0), LogicError);
  EXPECT_THROW(ThreadPool(-1), LogicError);
}

}  // namespace
}  // namespace fedspallm
