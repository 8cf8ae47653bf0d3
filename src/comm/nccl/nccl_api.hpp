// SPDX-License-Identifier: Apache-2.0
// Purpose: NCCL's functions, found at run time, so that a program built with CUDA starts on machines without
// NCCL; and the one place where results of NCCL and of the CUDA runtime are looked at in comm. Non-goal:
// what is sent.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <memory>
#include <source_location>

namespace fedspallm::comm {

struct NcclApi {
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init = nullptr;
  decltype(&ncclCommGetAsyncError) async_error = nullptr;
  decltype(&ncclCommFinalize) finalize = nullptr;
  decltype(&ncclCommDestroy) destroy = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;
  decltype(&ncclGetLastError) last_error = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
  std::shared_ptr<void> library = nullptr;  // loaded as long as this lives
};

/// @throws ResourceError saying what was looked for and what the loader said
[[nodiscard]] std::shared_ptr<const NcclApi> load_nccl();

/// @throws PeerError with call, NCCL's texts and advice unless `result` is ncclSuccess or ncclInProgress
void check_nccl(const NcclApi& api, ncclComm_t comm, ncclResult_t result, const char* call,
                std::source_location location = std::source_location::current());
/// @throws PeerError unless `status` is cudaSuccess
void check_cuda(cudaError_t status, const char* call,
                std::source_location location = std::source_location::current());

}  // namespace fedspallm::comm
