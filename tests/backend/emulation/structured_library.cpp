// SPDX-License-Identifier: Apache-2.0
// cuSPARSELt as plain loops, of the one kind of product that the backend asks for: d = a^T b, all by columns,
// a structured. "Compressed" is a's two weights of each group and where they were. Refuses what the
// library's documentation refuses.
#include "fedspallm/base/dtype.hpp"

#include "../../../src/backend/cuda/structured_api.hpp"
#include <cmath>

namespace {

using fedspallm::DType;

constexpr int made = 4711;
constexpr std::size_t scratch_bytes = 512;

float widened(cudaDataType type, std::uint16_t bits) {
  return type == CUDA_R_16BF ? fedspallm::bf16_to_float(bits) : fedspallm::f16_to_float(bits);
}
std::uint16_t narrowed(cudaDataType type, float value) {
  return type == CUDA_R_16BF ? fedspallm::float_to_bf16(value) : fedspallm::float_to_f16(value);
}
bool is_16_bit(cudaDataType type) {
  return type == CUDA_R_16BF || type == CUDA_R_16F;
}

cusparseStatus_t describe(const cusparseLtHandle_t* handle, cusparseLtMatDescriptor_t* matrix,
                          std::int64_t rows, std::int64_t cols, std::int64_t ld, std::uint32_t alignment,
                          cudaDataType type, cusparseOrder_t order, bool structured) {
  const bool good = handle->magic == made && rows > 0 && cols > 0 && rows % 8 == 0 && cols % 8 == 0 &&
                    ld >= rows && ld % 8 == 0 && alignment % 16 == 0 && is_16_bit(type) &&
                    order == CUSPARSE_ORDER_COL;
  if (!good) return CUSPARSE_STATUS_NOT_SUPPORTED;
  *matrix = {rows, cols, ld, type, structured};
  return CUSPARSE_STATUS_SUCCESS;
}

struct Kept {
  std::uint16_t value[2];
  std::int16_t place[2];
};

}  // namespace

cusparseStatus_t cusparseLtGetProperty(libraryPropertyType property, int* value) {
  *value = property == MAJOR_VERSION   ? CUSPARSELT_VER_MAJOR
           : property == MINOR_VERSION ? CUSPARSELT_VER_MINOR
                                       : 1;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtInit(cusparseLtHandle_t* handle) {
  handle->magic = made;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtDestroy(const cusparseLtHandle_t*) {
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtDenseDescriptorInit(const cusparseLtHandle_t* handle,
                                               cusparseLtMatDescriptor_t* matrix, std::int64_t rows,
                                               std::int64_t cols, std::int64_t ld, std::uint32_t alignment,
                                               cudaDataType type, cusparseOrder_t order) {
  return describe(handle, matrix, rows, cols, ld, alignment, type, order, false);
}
cusparseStatus_t cusparseLtStructuredDescriptorInit(const cusparseLtHandle_t* handle,
                                                    cusparseLtMatDescriptor_t* matrix, std::int64_t rows,
                                                    std::int64_t cols, std::int64_t ld,
                                                    std::uint32_t alignment, cudaDataType type,
                                                    cusparseOrder_t order, cusparseLtSparsity_t) {
  return describe(handle, matrix, rows, cols, ld, alignment, type, order, true);
}
cusparseStatus_t cusparseLtMatDescriptorDestroy(const cusparseLtMatDescriptor_t*) {
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulDescriptorInit(
    const cusparseLtHandle_t*, cusparseLtMatmulDescriptor_t* product, cusparseOperation_t op_a,
    cusparseOperation_t op_b, const cusparseLtMatDescriptor_t* a, const cusparseLtMatDescriptor_t* b,
    const cusparseLtMatDescriptor_t* c, const cusparseLtMatDescriptor_t* d, cusparseComputeType) {
  const bool good = op_a == CUSPARSE_OPERATION_TRANSPOSE && op_b == CUSPARSE_OPERATION_NON_TRANSPOSE &&
                    a->structured && !b->structured && a->rows == b->rows && d->rows == a->cols &&
                    d->cols == b->cols && c->rows == d->rows && c->cols == d->cols && a->type == b->type &&
                    d->type == a->type;
  if (!good) return CUSPARSE_STATUS_INVALID_VALUE;
  *product = {*a, *b, *d};
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulAlgSelectionInit(const cusparseLtHandle_t*,
                                                  cusparseLtMatmulAlgSelection_t* selection,
                                                  const cusparseLtMatmulDescriptor_t*,
                                                  cusparseLtMatmulAlg_t) {
  selection->magic = made;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulPlanInit(const cusparseLtHandle_t*, cusparseLtMatmulPlan_t* plan,
                                          const cusparseLtMatmulDescriptor_t* product,
                                          const cusparseLtMatmulAlgSelection_t* selection) {
  if (selection->magic != made) return CUSPARSE_STATUS_INVALID_VALUE;
  *plan = {*product, false, false};
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulPlanDestroy(const cusparseLtMatmulPlan_t*) {
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulGetWorkspace(const cusparseLtHandle_t*, const cusparseLtMatmulPlan_t* plan,
                                              std::size_t* bytes) {
  *bytes = plan->searched ? 2 * scratch_bytes : scratch_bytes;
  plan->asked = true;
  return CUSPARSE_STATUS_SUCCESS;
}

/// A group is four consecutive weights of what is summed over: of a column of a, which comes transposed.
cusparseStatus_t cusparseLtSpMMAPruneCheck(const cusparseLtHandle_t*,
                                           const cusparseLtMatmulDescriptor_t* product, const void* dense,
                                           int* wrong, cudaStream_t) {
  const auto* values = static_cast<const std::uint16_t*>(dense);
  *wrong = 0;
  for (std::int64_t column = 0; column < product->a.cols; ++column)
    for (std::int64_t row = 0; row < product->a.rows; row += 4) {
      int kept = 0;
      for (int i = 0; i < 4; ++i)
        kept += widened(product->a.type, values[column * product->a.ld + row + i]) != 0 ? 1 : 0;
      if (kept > 2) *wrong = 1;
    }
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtSpMMACompressedSize(const cusparseLtHandle_t*, const cusparseLtMatmulPlan_t* plan,
                                               std::size_t* bytes, std::size_t* buffer_bytes) {
  *bytes = static_cast<std::size_t>(plan->product.a.rows / 4 * plan->product.a.cols) * sizeof(Kept);
  *buffer_bytes = scratch_bytes;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtSpMMACompress(const cusparseLtHandle_t*, const cusparseLtMatmulPlan_t* plan,
                                         const void* dense, void* compressed, void* buffer, cudaStream_t) {
  if (buffer == nullptr) return CUSPARSE_STATUS_INVALID_VALUE;
  const cusparseLtMatDescriptor_t& a = plan->product.a;
  const auto* values = static_cast<const std::uint16_t*>(dense);
  auto* kept = static_cast<Kept*>(compressed);
  for (std::int64_t column = 0; column < a.cols; ++column)
    for (std::int64_t row = 0; row < a.rows; row += 4) {
      Kept group{};
      int count = 0;
      for (int i = 0; i < 4 && count < 2; ++i) {
        const std::uint16_t value = values[column * a.ld + row + i];
        if (widened(a.type, value) == 0) continue;
        group.value[count] = value;
        group.place[count++] = static_cast<std::int16_t>(i);
      }
      *kept++ = group;
    }
  return CUSPARSE_STATUS_SUCCESS;
}

namespace {

cusparseStatus_t multiply(const cusparseLtMatmulDescriptor_t& product, const void* alpha, const void* a,
                          const void* b, const void* beta, void* d, const void* workspace) {
  if (workspace == nullptr || *static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0)
    return CUSPARSE_STATUS_INVALID_VALUE;
  const auto* groups = static_cast<const Kept*>(a);
  const auto* right = static_cast<const std::uint16_t*>(b);
  auto* out = static_cast<std::uint16_t*>(d);
  const std::int64_t per_column = product.a.rows / 4;
  for (std::int64_t row = 0; row < product.d.rows; ++row)
    for (std::int64_t column = 0; column < product.d.cols; ++column) {
      float sum = 0;
      for (std::int64_t group = 0; group < per_column; ++group) {
        const Kept& kept = groups[row * per_column + group];
        for (int i = 0; i < 2; ++i)
          sum += widened(product.a.type, kept.value[i]) *
                 widened(product.a.type, right[column * product.b.ld + 4 * group + kept.place[i]]);
      }
      out[column * product.d.ld + row] = narrowed(product.a.type, sum);
    }
  return CUSPARSE_STATUS_SUCCESS;
}

}  // namespace

cusparseStatus_t cusparseLtMatmulSearch(const cusparseLtHandle_t*, cusparseLtMatmulPlan_t* plan,
                                        const void* alpha, const void* a, const void* b, const void* beta,
                                        const void*, void* d, void* workspace, cudaStream_t*,
                                        std::int32_t stream_count) {
  if (stream_count != 1) return CUSPARSE_STATUS_INVALID_VALUE;
  plan->searched = true;
  plan->asked = false;  // the kernel is another one, with another workspace
  return multiply(plan->product, alpha, a, b, beta, d, workspace);
}
cusparseStatus_t cusparseLtMatmul(const cusparseLtHandle_t*, const cusparseLtMatmulPlan_t* plan,
                                  const void* alpha, const void* a, const void* b, const void* beta,
                                  const void*, void* d, void* workspace, cudaStream_t*,
                                  std::int32_t stream_count) {
  if (stream_count != 1 || !plan->searched || !plan->asked) return CUSPARSE_STATUS_INVALID_VALUE;
  return multiply(plan->product, alpha, a, b, beta, d, workspace);
}

namespace fedspallm::backend::cuda {

const StructuredApi* structured_api(std::string& lacks) {
  static const StructuredApi api{cusparseLtGetProperty,
                                 cusparseLtInit,
                                 cusparseLtDestroy,
                                 cusparseLtDenseDescriptorInit,
                                 cusparseLtStructuredDescriptorInit,
                                 cusparseLtMatDescriptorDestroy,
                                 cusparseLtMatmulDescriptorInit,
                                 cusparseLtMatmulAlgSelectionInit,
                                 cusparseLtMatmulPlanInit,
                                 cusparseLtMatmulPlanDestroy,
                                 cusparseLtMatmulGetWorkspace,
                                 cusparseLtSpMMAPruneCheck,
                                 cusparseLtSpMMACompressedSize,
                                 cusparseLtSpMMACompress,
                                 cusparseLtMatmulSearch,
                                 cusparseLtMatmul};
  lacks.clear();
  return &api;
}

}  // namespace fedspallm::backend::cuda
