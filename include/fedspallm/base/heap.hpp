// SPDX-License-Identifier: Apache-2.0
// Purpose: how the C library treats freed memory. Values, masks and messages are freed and asked for again
// all the time; handing their pages back to the kernel each time costs as much as it takes to clear them.
// Non-goals: an allocator (large tensors: backend/host_memory.hpp), limits on memory.
#pragma once

namespace fedspallm {

/// From now on freed blocks below 32 MiB stay with the process, up to half a GiB for each of its heaps, so
/// peak memory does not change. Call it at the start of main. @return whether anything was set: not by
/// another C library or a sanitizer's heap, and not where the user has set MALLOC_TRIM_THRESHOLD_ or
/// MALLOC_MMAP_THRESHOLD_.
bool keep_freed_memory() noexcept;

/// Hands whole pages of what is free now back to the kernel: after something large that does not come again.
/// Nothing with another C library.
void give_back_freed_memory() noexcept;

}  // namespace fedspallm
