// SPDX-License-Identifier: Apache-2.0
// Purpose: one list of cases (op, sizes, seed) for everything that compares backends: parity tests, tests of
// bits across threads, benchmarks. run_case() makes the operands from the seed, runs the op and brings the
// results to the host. Non-goal: judging the results.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace fedspallm::test {

struct Case {
  std::string op;                   // name of the op, with a variant after ':'
  std::vector<std::int64_t> sizes;  // what they mean is the op's own: see cases.cpp
  std::uint64_t seed = 1;
  bool strided = false;  // operands are windows of larger tensors
  [[nodiscard]] std::string name() const;
};

/// Everything that an op gives back, by kind of comparison.
struct Output {
  std::vector<float> values;          // compared by normalised mean squared error
  std::vector<double> doubles;        // compared to a relative error
  std::vector<std::uint8_t> masks;    // compared exactly
  std::vector<std::int64_t> numbers;  // compared exactly
  std::vector<std::byte> bytes;       // compared exactly
};

/// Sizes 0, 1, below a block, not divisible, and real shapes scaled down; each also with strided operands.
[[nodiscard]] std::vector<Case> all_cases();
[[nodiscard]] Output run_case(backend::Backend& backend, const Case& item);

/// `count` numbers in [-1, 1) that depend on the seed and `stream` only.
[[nodiscard]] std::vector<float> uniform(std::uint64_t seed, std::uint32_t stream, std::int64_t count);

}  // namespace fedspallm::test
