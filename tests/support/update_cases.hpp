// SPDX-License-Identifier: Apache-2.0
// Purpose: made-up matrices as clients send them, for tests of sums on devices: every dtype, nothing at
// all, sizes about the 64 weights of a word and the 4096 of a kernel's unit, none and all kept, values of
// very different size.
#pragma once

#include "fedspallm/base/random.hpp"
#include "fedspallm/wire/update.hpp"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace fedspallm::test {

struct UpdateCase {
  std::int64_t rows = 1, cols = 1;
  DType dtype = DType::f32;
  int kept_per_hundred = 50;
  [[nodiscard]] std::string name() const {
    return std::to_string(rows) + " x " + std::to_string(cols) + " " + std::string(name_of(dtype)) + " " +
           std::to_string(kept_per_hundred) + " %";
  }
};

inline std::vector<UpdateCase> update_cases() {
  std::vector<UpdateCase> cases;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (const int kept : {0, 50, 100})
      for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{0, 0},
                                       {0, 5},
                                       {5, 0},
                                       {1, 1},
                                       {1, 63},
                                       {8, 8},
                                       {5, 13},
                                       {64, 64},
                                       {3, 1366},
                                       {33, 127},
                                       {130, 96}})
        cases.push_back({rows, cols, dtype, kept});
  return cases;
}

inline std::vector<float> case_values(const UpdateCase& item, std::uint32_t client,
                                      std::vector<std::uint8_t>& mask) {
  const auto size = static_cast<std::size_t>(item.rows * item.cols);
  std::vector<float> dense(size);
  mask.resize(size);
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint64_t bits = random_bits({.seed = 11, .use = RandomUse::simulation, .client = client}, i);
    mask[i] = static_cast<int>(bits % 100) < item.kept_per_hundred ? 1 : 0;
    const auto mantissa = static_cast<float>(static_cast<std::int64_t>(bits >> 8 & 0xfff) - 2048);
    dense[i] = std::ldexp(mantissa, -static_cast<int>(bits >> 24 & 15));
  }
  return dense;
}

inline wire::PackedMatrix packed_matrix(const UpdateCase& item, std::uint32_t client) {
  std::vector<std::uint8_t> mask;
  const std::vector<float> dense = case_values(item, client, mask);
  return wire::pack(item.rows, item.cols, item.dtype, dense, mask);
}

}  // namespace fedspallm::test
