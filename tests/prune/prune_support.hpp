// SPDX-License-Identifier: Apache-2.0
// Purpose: the backends under one name, and small matrices with keyed random contents.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/base/random.hpp"

#include <gtest/gtest.h>

#include "support/backends.hpp"
#include <memory>
#include <string>
#include <vector>

namespace fedspallm::prune {

using test::make_backend;

/// Uniform in (-1, 1), from a seed.
inline std::vector<float> random_values(std::int64_t count, std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(random_bits({.seed = seed}, i) >> 40) * 0x1p-23F - 1.0F;
  return values;
}

inline backend::Tensor tensor_of(backend::Backend& backend, std::int64_t rows, std::int64_t cols,
                                 const std::vector<float>& values) {
  backend::Tensor tensor = backend.allocate(rows, cols);
  backend.copy_in(std::span<const float>(values), tensor);
  return tensor;
}

inline std::vector<float> values_of(backend::Backend& backend, backend::View view) {
  std::vector<float> values(static_cast<std::size_t>(view.size()));
  backend.copy_out(view, std::span<float>(values));
  return values;
}

inline std::vector<std::uint8_t> mask_of(backend::Backend& backend, backend::View view) {
  std::vector<std::uint8_t> values(static_cast<std::size_t>(view.size()));
  backend.copy_out(view, std::span<std::uint8_t>(values));
  return values;
}

class OnBothBackends : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<backend::Backend> backend_ = make_backend(GetParam());
};

}  // namespace fedspallm::prune
