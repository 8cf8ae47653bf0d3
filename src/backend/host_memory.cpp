// SPDX-License-Identifier: Apache-2.0
#include "host_memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>

#if defined(__linux__)
#include <sys/sysinfo.h>
#endif

#include "fedspallm/base/error.hpp"

namespace fedspallm::backend {

namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kHugeFrom = 2 * kHugePage;

/// The sanitizer sees misuse of what comes from malloc only.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kMappedFrom = std::numeric_limits<std::size_t>::max();
#else
constexpr std::size_t kMappedFrom = std::size_t{128} << 10;
#endif

/// Every block starts with its sizes, so that releasing it needs only the pointer.
struct Header {
  std::size_t bytes = 0;   // as asked for
  std::size_t mapped = 0;  // of the whole block; 0 = it came from malloc
};
static_assert(sizeof(Header) <= kAlignment);

/// What this machine has, with swap. Linux would promise more and kill the process when it is touched.
std::size_t machine_bytes() {
#if defined(__linux__)
  struct sysinfo info {};
  if (sysinfo(&info) == 0) return (info.totalram + info.totalswap) * static_cast<std::size_t>(info.mem_unit);
#endif
  return std::numeric_limits<std::size_t>::max() / 2;
}

std::size_t rounded_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

std::size_t mapped_size(std::size_t bytes) {
  if (bytes < kMappedFrom) return 0;
  return rounded_up(bytes + kAlignment, bytes >= kHugeFrom ? kHugePage : kPage);
}

/// Pages of their own, large blocks on huge pages' boundaries; null when they cannot be had.
void* map_block(std::size_t mapped) {
  const bool huge = mapped >= kHugeFrom;
  const std::size_t spare = huge ? kHugePage : 0;
  void* space = mmap(nullptr, mapped + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (space == MAP_FAILED) return nullptr;
  if (!huge) return space;
  auto* begin = static_cast<std::byte*>(space);
  const auto past = static_cast<std::size_t>(reinterpret_cast<std::uintptr_t>(begin) % kHugePage);
  const std::size_t before = past == 0 ? 0 : kHugePage - past;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + mapped, spare - before);
#if defined(MADV_HUGEPAGE)
  // Fewer page faults and TLB misses in matrix products; only advice, so a refusal does not matter.
  static_cast<void>(madvise(begin + before, mapped, MADV_HUGEPAGE));
#endif
  return begin + before;
}

void* new_block(std::size_t bytes, std::size_t mapped) {
  return mapped > 0 ? map_block(mapped)
                    : std::aligned_alloc(kAlignment, rounded_up(bytes + kAlignment, kAlignment));
}

[[noreturn]] void refuse(std::size_t bytes, std::int64_t in_use) {
  throw ResourceError(
      fmt::format("memory: {} bytes could not be allocated ({} bytes are in use by this backend); "
                  "use fewer samples, a shorter sequence or a machine with more memory",
                  bytes, in_use));
}

}  // namespace

HostMemory::~HostMemory() {
  while (!blocks_.empty()) drop_largest_kept();
}

void* HostMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard lock(mutex_);
  if (bytes > machine_bytes()) refuse(bytes, allocated_);
  const std::size_t mapped = mapped_size(bytes);
  void* block = take_kept(mapped);
  if (block == nullptr) {
    make_room(mapped);
    block = new_block(bytes, mapped);
  }
  while (block == nullptr && !blocks_.empty()) {  // rather than fail
    drop_largest_kept();
    block = new_block(bytes, mapped);
  }
  if (block == nullptr) refuse(bytes, allocated_);
  const Header header{bytes, mapped};
  std::memcpy(block, &header, sizeof header);
  in_use_ += mapped;
  most_in_use_ = std::max(most_in_use_, in_use_);
  allocated_ += static_cast<std::int64_t>(bytes);
  peak_ = std::max(peak_, allocated_);
  return static_cast<std::byte*>(block) + kAlignment;
}

void HostMemory::release(void* data) noexcept {
  if (data == nullptr) return;
  void* block = static_cast<std::byte*>(data) - kAlignment;
  Header header;
  std::memcpy(&header, block, sizeof header);
  const std::lock_guard lock(mutex_);
  allocated_ -= static_cast<std::int64_t>(header.bytes);
  if (header.mapped == 0) {
    std::free(block);
    return;
  }
  in_use_ -= header.mapped;
  try {
    blocks_.emplace(header.mapped, block);
    kept_ += header.mapped;
  } catch (const std::bad_alloc&) {  // no room to remember it
    munmap(block, header.mapped);
  }
}

std::int64_t HostMemory::allocated_bytes() const noexcept {
  const std::lock_guard lock(mutex_);
  return allocated_;
}

std::int64_t HostMemory::peak_bytes() const noexcept {
  const std::lock_guard lock(mutex_);
  return peak_;
}

std::int64_t HostMemory::kept_bytes() const noexcept {
  const std::lock_guard lock(mutex_);
  return static_cast<std::int64_t>(kept_);
}

void* HostMemory::take_kept(std::size_t mapped) {
  const auto found = blocks_.find(mapped);
  if (found == blocks_.end()) return nullptr;
  void* block = found->second;
  blocks_.erase(found);
  kept_ -= mapped;
  return block;
}

/// Before so many bytes are mapped anew. A sixteenth more than was once in use may stay: else the small
/// Hessians of one group would cost the next group its large one, in each block.
void HostMemory::make_room(std::size_t mapped) {
  const std::size_t limit = most_in_use_ + most_in_use_ / 16;
  while (!blocks_.empty() && in_use_ + kept_ + mapped > limit) drop_largest_kept();
}

void HostMemory::drop_largest_kept() {
  const auto last = std::prev(blocks_.end());
  munmap(last->second, last->first);
  kept_ -= last->first;
  blocks_.erase(last);
}

}  // namespace fedspallm::backend
