// SPDX-License-Identifier: Apache-2.0
#include "cuda_check.hpp"

#include "fedspallm/base/error.hpp"

#include <string>

namespace fedspallm::backend::cuda {

namespace {

/// Errors that only a defect of the program brings about.
bool is_defect(cudaError_t status) {
  switch (status) {
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorAssert:
      return true;
    default:
      return false;
  }
}

std::string advice(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "; use fewer samples, a shorter sequence or a GPU with more memory";
    case cudaErrorNoKernelImageForDevice:
      return "; this build has no code for this GPU: configure with -DFEDSPALLM_CUDA_ARCHITECTURES=native "
             "or the GPU's compute capability";
    case cudaErrorInsufficientDriver:
      return "; the NVIDIA driver is older than this build's CUDA: update it, or use backend = \"cpu\"";
    default:
      return "; see `nvidia-smi` and the kernel's log for a failing device, or use backend = \"cpu\"";
  }
}

}  // namespace

void check_cuda(cudaError_t status, const char* call, std::source_location location) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // not to be reported again by a later call
  const std::string text =
      fmt::format("CUDA: {}: {} ({})", call, cudaGetErrorString(status), cudaGetErrorName(status));
  if (is_defect(status)) throw LogicError(text, location);
  throw ResourceError(text + advice(status), location);
}

void check_cublas(cublasStatus_t status, const char* call, std::source_location location) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string text = fmt::format("cuBLAS: {}: {}", call, cublasGetStatusString(status));
  if (status == CUBLAS_STATUS_INVALID_VALUE || status == CUBLAS_STATUS_NOT_SUPPORTED)
    throw LogicError(text, location);
  throw ResourceError(text + "; is there memory left on the GPU, and do its driver and libraries match?",
                      location);
}

void check_cusolver(cusolverStatus_t status, const char* call, std::source_location location) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  const std::string text = fmt::format("cuSOLVER: {}: status {}", call, static_cast<int>(status));
  if (status == CUSOLVER_STATUS_INVALID_VALUE || status == CUSOLVER_STATUS_NOT_SUPPORTED)
    throw LogicError(text, location);
  throw ResourceError(text + "; is there memory left on the GPU, and do its driver and libraries match?",
                      location);
}

}  // namespace fedspallm::backend::cuda
