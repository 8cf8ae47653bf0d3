// SPDX-License-Identifier: Apache-2.0
// Purpose: what is special about the CUDA backend: its options, the devices that this process sees and which
// of them a rank takes. All of it compiles in builds without CUDA, which see no device. Non-goal: the ops
// (backend.hpp).
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fedspallm::backend {

struct CudaOptions {
  int device = 0;                     // among the visible ones
  Products products = Products::f32;  // the 16-bit ones on tensor cores
};
/// @throws NotCompiled naming the preset when this build has no CUDA; ConfigError when there is no such
/// device; ResourceError when the device fails
[[nodiscard]] std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options);

struct CudaDevice {
  int index = 0;
  std::string name;  // "NVIDIA H200"
  std::string uuid;  // "GPU-8-4-4-4-12 hexadecimal digits", as nvidia-smi prints it
  std::int64_t memory_bytes = 0;
  int major = 0, minor = 0;  // compute capability
};
/// What this process sees; when that is nothing, `reason` says why.
struct CudaDevices {
  std::vector<CudaDevice> devices;
  std::string reason;
};
/// Never throws for want of devices or drivers.
[[nodiscard]] CudaDevices visible_cuda_devices();

/// Of the CUDA runtime, as it says itself: "13.0"; "" in builds without CUDA. Needs no driver.
[[nodiscard]] std::string cuda_runtime_version();

/// Device of a rank: ranks of a host take turns. @pre node_rank >= 0, visible >= 1
[[nodiscard]] int cuda_device_of_rank(int node_rank, int visible);
/// @pre bytes.size() == 16
[[nodiscard]] std::string format_uuid(std::span<const unsigned char> bytes);

/// Where a rank works.
struct RankPlace {
  int rank = 0;
  std::string host;
  std::string device;  // UUID of its GPU, or "" for none
};
/// Lines "rank 0  host  GPU-...", and one for each GPU that several ranks share; "" when no rank has a GPU.
[[nodiscard]] std::string rank_table(std::span<const RankPlace> places);

}  // namespace fedspallm::backend
