// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/backend/cuda.hpp"

#include <fmt/format.h>

#include "cuda_check.hpp"
#include <array>
#include <cstring>

namespace fedspallm::backend {

CudaDevices visible_cuda_devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {  // no driver, no device, a driver that is too old: all the same here
    static_cast<void>(cudaGetLastError());
    return {{}, cudaGetErrorString(status)};
  }
  CudaDevices result;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    cuda::check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    std::array<unsigned char, 16> uuid{};
    static_assert(sizeof properties.uuid == sizeof uuid);
    std::memcpy(uuid.data(), &properties.uuid, sizeof uuid);
    result.devices.push_back({index, properties.name, format_uuid(uuid),
                              static_cast<std::int64_t>(properties.totalGlobalMem), properties.major,
                              properties.minor});
  }
  if (result.devices.empty()) result.reason = "the CUDA driver sees no device";
  return result;
}

std::string cuda_runtime_version() {
  int version = 0;  // 1000 * major + 10 * minor
  if (cudaRuntimeGetVersion(&version) != cudaSuccess) return "of unknown version";
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

}  // namespace fedspallm::backend
