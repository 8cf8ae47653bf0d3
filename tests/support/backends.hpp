// SPDX-License-Identifier: Apache-2.0
// Purpose: the backends that tests of models and pruning run on, by name. The same sources are built once
// more with FEDSPALLM_TEST_CUDA, for the CUDA backend alone.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace fedspallm::test {

inline std::vector<std::string> backend_names() {
#if defined(FEDSPALLM_TEST_CUDA)
  return {"cuda"};
#else
  return {"reference", "cpu"};
#endif
}

inline std::unique_ptr<backend::Backend> make_backend(const std::string& name) {
  if (name == "reference") return backend::make_reference_backend();
  if (name == "cpu") return backend::make_cpu_backend(2);
  if (name == "cuda") return backend::make_cuda_backend(0);
  throw std::logic_error("no such backend in the tests: " + name);
}

}  // namespace fedspallm::test
