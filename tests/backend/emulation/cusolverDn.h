// SPDX-License-Identifier: Apache-2.0
// Purpose: stands in for cuSOLVER's header of this name: the routines that src/backend/cuda calls, in double.
// Non-goal: cuSOLVER's rounding.
#pragma once

#include "cublas_v2.h"

enum cusolverStatus_t {
  CUSOLVER_STATUS_SUCCESS,
  CUSOLVER_STATUS_INVALID_VALUE,
  CUSOLVER_STATUS_NOT_SUPPORTED,
  CUSOLVER_STATUS_ALLOC_FAILED
};
enum cusolverDeterministicMode_t { CUSOLVER_DETERMINISTIC_RESULTS };
struct cusolverDnContext;
struct cusolverDnParams;
using cusolverDnHandle_t = cusolverDnContext*;
using cusolverDnParams_t = cusolverDnParams*;

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle);
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle);
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream);
cusolverStatus_t cusolverDnSetDeterministicMode(cusolverDnHandle_t handle, cusolverDeterministicMode_t mode);
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* parameters);
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t parameters);

cusolverStatus_t cusolverDnXpotrf_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t parameters,
                                             cublasFillMode_t fill, std::int64_t n, cudaDataType type,
                                             const void* a, std::int64_t lda, cudaDataType compute,
                                             std::size_t* device_bytes, std::size_t* host_bytes);
cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t handle, cusolverDnParams_t parameters,
                                  cublasFillMode_t fill, std::int64_t n, cudaDataType type, void* a,
                                  std::int64_t lda, cudaDataType compute, void* device_memory,
                                  std::size_t device_bytes, void* host_memory, std::size_t host_bytes,
                                  int* info);
cusolverStatus_t cusolverDnXtrtri_bufferSize(cusolverDnHandle_t handle, cublasFillMode_t fill,
                                             cublasDiagType_t diagonal, std::int64_t n, cudaDataType type,
                                             void* a, std::int64_t lda, std::size_t* device_bytes,
                                             std::size_t* host_bytes);
cusolverStatus_t cusolverDnXtrtri(cusolverDnHandle_t handle, cublasFillMode_t fill, cublasDiagType_t diagonal,
                                  std::int64_t n, cudaDataType type, void* a, std::int64_t lda,
                                  void* device_memory, std::size_t device_bytes, void* host_memory,
                                  std::size_t host_bytes, int* info);
