// SPDX-License-Identifier: Apache-2.0
// Purpose: what tests tell the emulated NCCL, and ask of it.
#pragma once

#include <atomic>
#include <vector>

namespace emulation {

struct Nccl {
  std::vector<int> ranks;                  // of the world, by NCCL's number
  std::atomic<bool> never_ready{false};    // initialization never ends
  std::atomic<int> fail_after_groups{-1};  // then ncclCommGetAsyncError says ncclRemoteError
  std::atomic<bool> refuse_sends{false};   // ncclSend says ncclRemoteError
  std::atomic<int> groups{0}, largest_group{0}, aborted{0}, destroyed{0}, communicators{0};
};
Nccl& nccl();

}  // namespace emulation
