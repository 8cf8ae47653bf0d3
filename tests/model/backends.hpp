// SPDX-License-Identifier: Apache-2.0
// Purpose: the backends that the model's tests run on, by name.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace fedspallm::test {

inline std::vector<std::string> backend_names() {
  return {"reference", "cpu"};
}

inline std::unique_ptr<backend::Backend> make_backend(const std::string& name) {
  if (name == "reference") return backend::make_reference_backend();
  if (name == "cpu") return backend::make_cpu_backend(2);
  throw std::logic_error("no such backend in the tests: " + name);
}

inline std::vector<float> to_host(backend::Backend& backend, backend::View view) {
  std::vector<float> values(static_cast<std::size_t>(view.size()));
  backend.copy_out(view, std::span<float>(values));
  return values;
}

}  // namespace fedspallm::test
