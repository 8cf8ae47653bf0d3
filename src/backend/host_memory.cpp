// SPDX-License-Identifier: Apache-2.0
#include "host_memory.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <limits>

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/sysinfo.h>
#endif

#include "fedspallm/base/error.hpp"

namespace fedspallm::backend {

namespace {

constexpr std::size_t small_alignment = 64;
constexpr std::size_t large_alignment = std::size_t{2} << 20;  // one huge page
constexpr std::size_t large_from = 2 * large_alignment;

/// Every block starts with its size, so that releasing it needs only the pointer.
struct Header {
  void* block;
  std::size_t bytes;
};
static_assert(sizeof(Header) <= small_alignment);

/// What this machine has, with swap. Linux would promise more and kill the process when it is touched.
std::size_t machine_bytes() {
#if defined(__linux__)
  struct sysinfo info {};
  if (sysinfo(&info) == 0) return (info.totalram + info.totalswap) * static_cast<std::size_t>(info.mem_unit);
#endif
  return std::numeric_limits<std::size_t>::max();
}

/// `bytes` and the header, rounded up; null when they cannot be had.
void* aligned_block(std::size_t bytes, std::size_t alignment) {
  if (bytes > machine_bytes() || bytes > std::numeric_limits<std::size_t>::max() / 2) return nullptr;
  return std::aligned_alloc(alignment, (bytes + small_alignment + alignment - 1) / alignment * alignment);
}

}  // namespace

void* HostMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const bool large = bytes >= large_from;
  const std::size_t alignment = large ? large_alignment : small_alignment;
  void* block = aligned_block(bytes, alignment);
  if (block == nullptr)
    throw ResourceError(
        fmt::format("memory: {} bytes could not be allocated ({} bytes are in use by this backend); "
                    "use fewer samples, a shorter sequence or a machine with more memory",
                    bytes, allocated_.load()));
#if defined(__linux__)
  // Fewer page faults and TLB misses in matrix products; only advice, so a refusal does not matter.
  if (large) static_cast<void>(madvise(block, bytes, MADV_HUGEPAGE));
#endif
  const Header header{block, bytes};
  std::memcpy(block, &header, sizeof header);
  const std::int64_t now =
      allocated_.fetch_add(static_cast<std::int64_t>(bytes)) + static_cast<std::int64_t>(bytes);
  std::int64_t peak = peak_.load();
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
  }
  return static_cast<std::byte*>(block) + small_alignment;
}

void HostMemory::release(void* data) noexcept {
  if (data == nullptr) return;
  Header header{};
  std::memcpy(&header, static_cast<std::byte*>(data) - small_alignment, sizeof header);
  allocated_.fetch_sub(static_cast<std::int64_t>(header.bytes));
  std::free(header.block);
}

}  // namespace fedspallm::backend
