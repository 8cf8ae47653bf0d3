// SPDX-License-Identifier: Apache-2.0
// cuSPARSELt's library, opened at run time. Its objects are structs that the caller holds, of sizes that the
// header knows: another version's library is refused.
#include <dlfcn.h>
#include <fmt/format.h>

#include "structured_api.hpp"
#include <optional>

namespace fedspallm::backend::cuda {

namespace {

constexpr const char* library_name = "libcusparseLt.so.0";

template <class Function>
void find(void* library, const char* name, Function& function, std::string& missing) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) missing = name;
}

std::string find_all(void* library, StructuredApi& api) {
  std::string missing;
  const auto get = [&](const char* name, auto& function) { find(library, name, function, missing); };
  get("cusparseLtGetProperty", api.get_property);
  get("cusparseLtInit", api.init);
  get("cusparseLtDestroy", api.destroy);
  get("cusparseLtDenseDescriptorInit", api.describe_dense);
  get("cusparseLtStructuredDescriptorInit", api.describe_structured);
  get("cusparseLtMatDescriptorDestroy", api.destroy_matrix);
  get("cusparseLtMatmulDescriptorInit", api.describe_product);
  get("cusparseLtMatmulAlgSelectionInit", api.choose);
  get("cusparseLtMatmulPlanInit", api.make_plan);
  get("cusparseLtMatmulPlanDestroy", api.destroy_plan);
  get("cusparseLtMatmulGetWorkspace", api.workspace_bytes);
  get("cusparseLtSpMMAPruneCheck", api.check_pattern);
  get("cusparseLtSpMMACompressedSize", api.compressed_bytes);
  get("cusparseLtSpMMACompress", api.compress);
  get("cusparseLtMatmulSearch", api.search);
  get("cusparseLtMatmul", api.multiply);
  return missing.empty() ? "" : fmt::format("{} has no {}", library_name, missing);
}

/// What is wrong with it, or "".
std::string load(StructuredApi& api) {
  void* library = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);  // for the rest of the process
  if (library == nullptr) {
    const char* said = dlerror();
    return fmt::format("{} cannot be loaded ({})", library_name, said == nullptr ? "no reason given" : said);
  }
  if (std::string lacks = find_all(library, api); !lacks.empty()) return lacks;
  int major = -1, minor = -1;
  if (api.get_property(MAJOR_VERSION, &major) != CUSPARSE_STATUS_SUCCESS ||
      api.get_property(MINOR_VERSION, &minor) != CUSPARSE_STATUS_SUCCESS)
    return fmt::format("{} does not say its version", library_name);
  if (major != CUSPARSELT_VER_MAJOR || minor != CUSPARSELT_VER_MINOR)
    return fmt::format("{} is version {}.{}, this program was built for {}.{}", library_name, major, minor,
                       CUSPARSELT_VER_MAJOR, CUSPARSELT_VER_MINOR);
  return "";
}

}  // namespace

const StructuredApi* structured_api(std::string& lacks) {
  static StructuredApi api;
  static const std::string why_not = load(api);
  lacks = why_not;
  return why_not.empty() ? &api : nullptr;
}

}  // namespace fedspallm::backend::cuda
