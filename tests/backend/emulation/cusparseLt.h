// SPDX-License-Identifier: Apache-2.0
// Purpose: stands in for cuSPARSELt's header of this name (cuda_runtime_api.h beside it says why and what
// not); structured_library.cpp has the functions. Objects lie with the caller, as the library's do.
#pragma once

#include "cusparse.h"
#include <cstddef>
#include <cstdint>

constexpr int CUSPARSELT_VER_MAJOR = 0, CUSPARSELT_VER_MINOR = 8;

struct cusparseLtHandle_t {
  int magic;
};
struct cusparseLtMatDescriptor_t {
  std::int64_t rows, cols, ld;
  cudaDataType type;
  bool structured;
};
struct cusparseLtMatmulDescriptor_t {
  cusparseLtMatDescriptor_t a, b, d;
};
struct cusparseLtMatmulAlgSelection_t {
  int magic;
};
struct cusparseLtMatmulPlan_t {
  cusparseLtMatmulDescriptor_t product;
  bool searched;
  mutable bool asked;  // for the workspace, since the kernel was chosen
};
enum cusparseLtSparsity_t { CUSPARSELT_SPARSITY_50_PERCENT };
enum cusparseComputeType { CUSPARSE_COMPUTE_32F };
enum cusparseLtMatmulAlg_t { CUSPARSELT_MATMUL_ALG_DEFAULT };

cusparseStatus_t cusparseLtGetProperty(libraryPropertyType property, int* value);
cusparseStatus_t cusparseLtInit(cusparseLtHandle_t* handle);
cusparseStatus_t cusparseLtDestroy(const cusparseLtHandle_t* handle);
cusparseStatus_t cusparseLtDenseDescriptorInit(const cusparseLtHandle_t* handle,
                                               cusparseLtMatDescriptor_t* matrix, std::int64_t rows,
                                               std::int64_t cols, std::int64_t ld, std::uint32_t alignment,
                                               cudaDataType type, cusparseOrder_t order);
cusparseStatus_t cusparseLtStructuredDescriptorInit(const cusparseLtHandle_t* handle,
                                                    cusparseLtMatDescriptor_t* matrix, std::int64_t rows,
                                                    std::int64_t cols, std::int64_t ld,
                                                    std::uint32_t alignment, cudaDataType type,
                                                    cusparseOrder_t order, cusparseLtSparsity_t sparsity);
cusparseStatus_t cusparseLtMatDescriptorDestroy(const cusparseLtMatDescriptor_t* matrix);
cusparseStatus_t cusparseLtMatmulDescriptorInit(
    const cusparseLtHandle_t* handle, cusparseLtMatmulDescriptor_t* product, cusparseOperation_t op_a,
    cusparseOperation_t op_b, const cusparseLtMatDescriptor_t* a, const cusparseLtMatDescriptor_t* b,
    const cusparseLtMatDescriptor_t* c, const cusparseLtMatDescriptor_t* d, cusparseComputeType compute);
cusparseStatus_t cusparseLtMatmulAlgSelectionInit(const cusparseLtHandle_t* handle,
                                                  cusparseLtMatmulAlgSelection_t* selection,
                                                  const cusparseLtMatmulDescriptor_t* product,
                                                  cusparseLtMatmulAlg_t algorithm);
cusparseStatus_t cusparseLtMatmulPlanInit(const cusparseLtHandle_t* handle, cusparseLtMatmulPlan_t* plan,
                                          const cusparseLtMatmulDescriptor_t* product,
                                          const cusparseLtMatmulAlgSelection_t* selection);
cusparseStatus_t cusparseLtMatmulPlanDestroy(const cusparseLtMatmulPlan_t* plan);
cusparseStatus_t cusparseLtMatmulGetWorkspace(const cusparseLtHandle_t* handle,
                                              const cusparseLtMatmulPlan_t* plan, std::size_t* bytes);
cusparseStatus_t cusparseLtSpMMAPruneCheck(const cusparseLtHandle_t* handle,
                                           const cusparseLtMatmulDescriptor_t* product, const void* dense,
                                           int* wrong, cudaStream_t stream);
cusparseStatus_t cusparseLtSpMMACompressedSize(const cusparseLtHandle_t* handle,
                                               const cusparseLtMatmulPlan_t* plan, std::size_t* bytes,
                                               std::size_t* buffer_bytes);
cusparseStatus_t cusparseLtSpMMACompress(const cusparseLtHandle_t* handle, const cusparseLtMatmulPlan_t* plan,
                                         const void* dense, void* compressed, void* buffer,
                                         cudaStream_t stream);
cusparseStatus_t cusparseLtMatmulSearch(const cusparseLtHandle_t* handle, cusparseLtMatmulPlan_t* plan,
                                        const void* alpha, const void* a, const void* b, const void* beta,
                                        const void* c, void* d, void* workspace, cudaStream_t* streams,
                                        std::int32_t stream_count);
cusparseStatus_t cusparseLtMatmul(const cusparseLtHandle_t* handle, const cusparseLtMatmulPlan_t* plan,
                                  const void* alpha, const void* a, const void* b, const void* beta,
                                  const void* c, void* d, void* workspace, cudaStream_t* streams,
                                  std::int32_t stream_count);
