// SPDX-License-Identifier: Apache-2.0
// Stands in for NCCL in builds without CUDA or without NCCL's header.
#include "fedspallm/base/error.hpp"
#include "fedspallm/comm/device.hpp"

namespace fedspallm::comm {

NcclLibrary nccl_library() {
  return {0, "this build has none (cmake --preset cuda, where NCCL's header nccl.h is found)"};
}

bool nccl_built() {
  return false;
}

std::unique_ptr<DeviceLink> make_nccl_link(Communicator&, std::span<const int>, int, double) {
  throw NotCompiled("transport \"nccl\": " + nccl_library().lacks);
}

}  // namespace fedspallm::comm
