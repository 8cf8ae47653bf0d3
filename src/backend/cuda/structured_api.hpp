// SPDX-License-Identifier: Apache-2.0
// Purpose: cuSPARSELt's functions, found at run time, so that a program built with its header starts on
// machines without it. Non-goal: what is computed.
#pragma once

#include <cusparseLt.h>

#include <string>

namespace fedspallm::backend::cuda {

struct StructuredApi {
  decltype(&cusparseLtGetProperty) get_property = nullptr;
  decltype(&cusparseLtInit) init = nullptr;
  decltype(&cusparseLtDestroy) destroy = nullptr;
  decltype(&cusparseLtDenseDescriptorInit) describe_dense = nullptr;
  decltype(&cusparseLtStructuredDescriptorInit) describe_structured = nullptr;
  decltype(&cusparseLtMatDescriptorDestroy) destroy_matrix = nullptr;
  decltype(&cusparseLtMatmulDescriptorInit) describe_product = nullptr;
  decltype(&cusparseLtMatmulAlgSelectionInit) choose = nullptr;
  decltype(&cusparseLtMatmulPlanInit) make_plan = nullptr;
  decltype(&cusparseLtMatmulPlanDestroy) destroy_plan = nullptr;
  decltype(&cusparseLtMatmulGetWorkspace) workspace_bytes = nullptr;
  decltype(&cusparseLtSpMMAPruneCheck) check_pattern = nullptr;
  decltype(&cusparseLtSpMMACompressedSize) compressed_bytes = nullptr;
  decltype(&cusparseLtSpMMACompress) compress = nullptr;
  decltype(&cusparseLtMatmulSearch) search = nullptr;
  decltype(&cusparseLtMatmul) multiply = nullptr;
};

/// Null where it cannot be had; `lacks` says why. Loads the library, which then stays.
[[nodiscard]] const StructuredApi* structured_api(std::string& lacks);

}  // namespace fedspallm::backend::cuda
