// SPDX-License-Identifier: Apache-2.0
// Purpose: what the model's tests need of backends.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include "support/backends.hpp"
#include <vector>

namespace fedspallm::test {

inline std::vector<float> to_host(backend::Backend& backend, backend::View view) {
  std::vector<float> values(static_cast<std::size_t>(view.size()));
  backend.copy_out(view, std::span<float>(values));
  return values;
}

}  // namespace fedspallm::test
