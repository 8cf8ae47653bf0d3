// SPDX-License-Identifier: Apache-2.0
// Purpose: the one place where results of CUDA, cuBLAS and cuSOLVER calls become errors of the program's
// tree. Memory that cannot be had and devices that fail are ResourceError; arguments that CUDA refuses and
// accesses outside memory are LogicError. Non-goal: expected numerical failures (cuSOLVER's info).
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include <source_location>

namespace fedspallm::backend::cuda {

/// @param call  the function and what it was for, as a person reads it
void check_cuda(cudaError_t status, const char* call,
                std::source_location location = std::source_location::current());
void check_cublas(cublasStatus_t status, const char* call,
                  std::source_location location = std::source_location::current());
void check_cusolver(cusolverStatus_t status, const char* call,
                    std::source_location location = std::source_location::current());

}  // namespace fedspallm::backend::cuda
