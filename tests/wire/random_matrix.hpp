// SPDX-License-Identifier: Apache-2.0
// Purpose: matrices with keyed random masks and values, for the tests of wire/ and aggregate/.
#pragma once

#include "fedspallm/base/random.hpp"
#include "fedspallm/wire/update.hpp"

#include <cmath>
#include <cstdint>
#include <vector>

namespace fedspallm::test {

/// Uniform in [0, 1).
inline double uniform(std::uint32_t stream, std::uint64_t index) {
  const RandomKey key{.seed = 20250101, .use = RandomUse::simulation, .client = stream};
  return std::ldexp(static_cast<double>(random_bits(key, index) >> 11), -53);
}

struct DenseMatrix {
  std::vector<float> values;
  std::vector<std::uint8_t> kept;
};

/// Values of about 2^-12 to 1 in magnitude and of both signs, rounded to `dtype`; each kept with probability
/// `density`.
inline DenseMatrix random_dense(std::uint32_t stream, std::int64_t size, double density, DType dtype) {
  DenseMatrix dense;
  dense.values.resize(static_cast<std::size_t>(size));
  dense.kept.resize(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < size; ++i) {
    const auto n = static_cast<std::uint64_t>(i);
    const double magnitude = std::exp2(-12 * uniform(stream, 3 * n));
    const double sign = uniform(stream, 3 * n + 1) < 0.5 ? -1 : 1;
    dense.values[static_cast<std::size_t>(i)] = round_to(dtype, static_cast<float>(sign * magnitude));
    dense.kept[static_cast<std::size_t>(i)] = uniform(stream, 3 * n + 2) < density ? 1 : 0;
  }
  return dense;
}

inline wire::PackedMatrix random_packed(std::uint32_t stream, std::int64_t rows, std::int64_t cols,
                                        double density, DType dtype) {
  const DenseMatrix dense = random_dense(stream, rows * cols, density, dtype);
  return wire::pack(rows, cols, dtype, dense.values, dense.kept);
}

}  // namespace fedspallm::test
