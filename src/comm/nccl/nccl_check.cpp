// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/error.hpp"

#include "nccl_api.hpp"

namespace fedspallm::comm {

void check_nccl(const NcclApi& api, ncclComm_t comm, ncclResult_t result, const char* call,
                std::source_location location) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* more = api.last_error == nullptr ? nullptr : api.last_error(comm);
  throw PeerError(
      fmt::format("NCCL: {}: {}{}{} (NCCL_DEBUG=INFO says more; federation.transport = \"gather\" "
                  "goes without NCCL)",
                  call, api.error_string(result), more == nullptr || *more == '\0' ? "" : ": ",
                  more == nullptr ? "" : more),
      location);
}

void check_cuda(cudaError_t status, const char* call, std::source_location location) {
  if (status == cudaSuccess) return;
  throw PeerError(fmt::format("CUDA, for messages between GPUs: {}: {}", call, cudaGetErrorString(status)),
                  location);
}

}  // namespace fedspallm::comm
