// SPDX-License-Identifier: Apache-2.0
// Answers for cuSPARSELt where this build has not found its header.
#include "fedspallm/backend/structured.hpp"

namespace fedspallm::backend {

StructuredChoice make_structured_product(Backend& backend, View, View) {
  if (backend.name() != "cuda") return {nullptr, "no such product on the backend " + backend.name()};
  return {nullptr, "this build has no cuSPARSELt (CMake looks for cusparseLt.h; CUSPARSELT_INCLUDE_DIR)"};
}

}  // namespace fedspallm::backend
