// SPDX-License-Identifier: Apache-2.0
// keep_freed_memory: what was freed is had again without new pages.
#include "fedspallm/base/heap.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

namespace fedspallm {
namespace {

long faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

void touch(std::size_t bytes) {
  void* block = std::malloc(bytes);
  ASSERT_NE(block, nullptr);
  std::memset(block, 1, bytes);
  asm volatile("" : : "r"(block) : "memory");  // written for somebody to read
  std::free(block);
}

TEST(Heap, FreedBlocksAreUsedAgainWithoutNewPages) {
  if (!keep_freed_memory()) GTEST_SKIP() << "not this C library's heap, or set by the user";
  constexpr std::size_t kBytes = std::size_t{24} << 20;
  touch(kBytes);
  const long before = faults();
  for (int repeat = 0; repeat < 10; ++repeat) touch(kBytes);
  EXPECT_LT(faults() - before, 100) << "of 6,144 pages each time";
}

long resident_pages() {
  std::ifstream file("/proc/self/statm");
  long all = 0, resident = 0;
  file >> all >> resident;
  return resident;
}

TEST(Heap, FreedMemoryIsGivenBackWhenAsked) {
  if (!keep_freed_memory()) GTEST_SKIP() << "not this C library's heap, or set by the user";
  touch(std::size_t{24} << 20);
  const long kept = resident_pages();
  give_back_freed_memory();
  EXPECT_LT(resident_pages(), kept - 5000) << "of 6,144 pages";
}

TEST(Heap, WhatTheUserSetStays) {
  ASSERT_EQ(setenv("MALLOC_TRIM_THRESHOLD_", "1000000", 1), 0);
  EXPECT_FALSE(keep_freed_memory());
  ASSERT_EQ(unsetenv("MALLOC_TRIM_THRESHOLD_"), 0);
}

}  // namespace
}  // namespace fedspallm
