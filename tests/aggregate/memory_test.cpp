// SPDX-License-Identifier: Apache-2.0
// How much memory finish() takes beside the sums. A binary of its own, because it counts every allocation.
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/random.hpp"

#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<std::int64_t> current{0}, peak{0};

void* counted(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  const auto now = current += static_cast<std::int64_t>(malloc_usable_size(memory));
  std::int64_t before = peak.load();
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
  return memory;
}

void release(void* memory) noexcept {
  if (memory != nullptr) current -= static_cast<std::int64_t>(malloc_usable_size(memory));
  std::free(memory);
}

}  // namespace

// Never inlined: GCC would then see new beside free and warn of a mismatch.
[[gnu::noinline]] void* operator new(std::size_t size) {
  return counted(std::malloc(size));
}
[[gnu::noinline]] void* operator new[](std::size_t size) {
  return counted(std::malloc(size));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  release(memory);
}
[[gnu::noinline]] void operator delete[](void* memory) noexcept {
  release(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  release(memory);
}
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept {
  release(memory);
}

namespace fedspallm::aggregate {
namespace {

constexpr std::int64_t kRows = 1024, kCols = 1536, kWeights = kRows * kCols;

/// Votes of 8 clients, and values that `spread` makes all different or all the same.
PartialMerge sums(bool spread) {
  PartialMerge merge(kRows, kCols, FixedPoint::covering(1.0F, 8), {-30});
  const RandomKey key{.seed = 3, .use = RandomUse::simulation};
  for (std::size_t i = 0; i < static_cast<std::size_t>(kWeights); ++i) {
    const std::uint64_t random = random_bits(key, i);
    const auto kept = static_cast<std::uint32_t>(__builtin_popcount(static_cast<unsigned>(random & 0xff)));
    merge.tiles()[i / 64].kept[i % 64] = spread ? kept : 1;
    merge.tiles()[i / 64].sum[i % 64] = !spread ? 1 : kept == 0 ? 0 : static_cast<std::int64_t>(random >> 12);
  }
  return merge;
}

/// Most bytes per weight that are allocated at one time during finish(), its result included.
double peak_bytes(const PartialMerge& merge, const MergeRules& rules, DType dtype) {
  const std::vector<std::int64_t> diagonal(static_cast<std::size_t>(kCols), 1 << 20);
  const std::int64_t before = current.load();
  peak.store(before);
  const MergedMatrix result = finish(merge, 8, rules, dtype, diagonal);
  EXPECT_GT(result.matrix.kept, 0);
  return static_cast<double>(peak.load() - before) / static_cast<double>(kWeights);
}

TEST(FinishMemory, IsASmallMultipleOfTheMatrix) {
  const PartialMerge spread = sums(true), tied = sums(false);
  for (const auto& [dtype, limit] :
       {std::pair{DType::bf16, 9.5}, std::pair{DType::f16, 9.5}, std::pair{DType::f32, 12.5}})
    for (const TieRule tie : {TieRule::score, TieRule::magnitude, TieRule::index})
      for (const PartialMerge* merge : {&spread, &tied}) {
        const double bytes = peak_bytes(*merge, {.tie = tie, .sparsity = 0.5}, dtype);
        const std::string label = std::string(name_of(dtype)) + (merge == &tied ? "_tied" : "_spread");
        RecordProperty(label, std::to_string(bytes));
        // 4 for votes, 1/8 for the mask, half the elements: the result. All elements, 1/8 for ties, at most
        // 3 for what is gathered near the cut (16 bytes for a sixteenth of the weights, and the vector's
        // growth).
        EXPECT_LE(bytes, limit) << label << " tie " << static_cast<int>(tie);
        EXPECT_GE(bytes, 4.0) << "the counting works";
      }
  EXPECT_LE(peak_bytes(spread, {.sparsity = 0.5, .keep = 2, .group = 4}, DType::bf16), 9.5);
}

}  // namespace
}  // namespace fedspallm::aggregate
