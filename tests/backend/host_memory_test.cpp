// SPDX-License-Identifier: Apache-2.0
// HostMemory: alignment, counts, what is kept and given again, and that it never holds more than was once in
// use.
#include "../../src/backend/host_memory.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <thread>
#include <vector>

namespace fedspallm::backend {
namespace {

constexpr std::size_t kMega = std::size_t{1} << 20;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kKeeps = false;  // everything comes from malloc then
#else
constexpr bool kKeeps = true;
#endif

TEST(HostMemory, blocks_of_all_sizes_are_aligned_and_whole) {
  HostMemory memory;
  EXPECT_EQ(memory.allocate(0), nullptr);
  memory.release(nullptr);
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{4096}, kMega / 8 - 1, kMega / 8, kMega,
        4 * kMega - 64, 4 * kMega - 1, 4 * kMega, 9 * kMega + 5}) {
    void* block = memory.allocate(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block) % 64, 0U) << bytes;
    std::memset(block, 0x5a, bytes);
    EXPECT_EQ(memory.allocated_bytes(), static_cast<std::int64_t>(bytes));
    memory.release(block);
    EXPECT_EQ(memory.allocated_bytes(), 0);
  }
  EXPECT_EQ(memory.peak_bytes(), static_cast<std::int64_t>(9 * kMega + 5));
}

TEST(HostMemory, gives_a_released_block_again) {
  if (!kKeeps) GTEST_SKIP() << "not with the address sanitizer";
  HostMemory memory;
  for (const std::size_t bytes : {kMega, 8 * kMega}) {
    void* first = memory.allocate(bytes);
    memory.release(first);
    EXPECT_GE(memory.kept_bytes(), static_cast<std::int64_t>(bytes));
    void* second = memory.allocate(bytes);
    EXPECT_EQ(second, first);
    EXPECT_EQ(memory.kept_bytes(), 0);
    memory.release(second);
  }
}

TEST(HostMemory, holds_a_sixteenth_more_than_was_in_use_at_once) {
  if (!kKeeps) GTEST_SKIP() << "not with the address sanitizer";
  HostMemory memory;
  constexpr auto kLimit =
      static_cast<std::int64_t>(8 * kMega + kMega / 2 + 4096 * 8);  // and what rounding adds
  std::vector<void*> blocks;
  for (int i = 0; i < 8; ++i) blocks.push_back(memory.allocate(kMega));
  for (void* block : blocks) memory.release(block);
  EXPECT_LE(memory.kept_bytes(), kLimit);
  for (const std::size_t bytes :
       {2 * kMega, 3 * kMega + 1, 5 * kMega, 7 * kMega}) {  // sizes that never come back
    void* block = memory.allocate(bytes);
    EXPECT_LE(memory.allocated_bytes() + memory.kept_bytes(), kLimit + static_cast<std::int64_t>(2 * kMega))
        << bytes;
    memory.release(block);
  }
  EXPECT_LE(memory.kept_bytes(), kLimit + static_cast<std::int64_t>(2 * kMega)) << "huge pages round up";
}

TEST(HostMemory, a_small_block_does_not_cost_the_large_one_that_comes_back) {
  if (!kKeeps) GTEST_SKIP() << "not with the address sanitizer";
  HostMemory memory;
  void* large = memory.allocate(30 * kMega);
  memory.release(large);
  void* small = memory.allocate(kMega);
  EXPECT_GE(memory.kept_bytes(), static_cast<std::int64_t>(30 * kMega));
  void* again = memory.allocate(30 * kMega);
  EXPECT_EQ(again, large);
  memory.release(again);
  memory.release(small);
}

TEST(HostMemory, what_cannot_be_had_is_refused_with_its_size) {
  HostMemory memory;
  for (const std::size_t bytes : {std::size_t{1} << 60, std::numeric_limits<std::size_t>::max()}) {
    try {
      (void)memory.allocate(bytes);
      ADD_FAILURE() << "no error";
    } catch (const ResourceError& error) {
      EXPECT_NE(std::string(error.what()).find(std::to_string(bytes)), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(memory.allocated_bytes(), 0);
}

TEST(HostMemory, threads_get_blocks_of_their_own) {
  HostMemory memory;
  const auto work = [&memory](int thread) {
    for (int i = 0; i < 200; ++i) {
      const std::size_t bytes = kMega / 8 + static_cast<std::size_t>(i % 3) * 4096;
      auto* block = static_cast<unsigned char*>(memory.allocate(bytes));
      std::memset(block, thread, bytes);
      for (std::size_t at = 0; at < bytes; at += 4096) ASSERT_EQ(block[at], thread);
      memory.release(block);
    }
  };
  std::vector<std::jthread> threads;
  for (int thread = 0; thread < 4; ++thread) threads.emplace_back(work, thread);
  threads.clear();
  EXPECT_EQ(memory.allocated_bytes(), 0);
}

}  // namespace
}  // namespace fedspallm::backend
