// SPDX-License-Identifier: Apache-2.0
// Purpose: counting again what a record claims, from its masks, votes and values; each difference is one
// sentence naming what was found and what was expected. Non-goals: files (inspect.cpp).
#pragma once

#include "fedspallm/store/records.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::store {

struct Recount {
  std::int64_t dropped = 0;             // by the mask
  std::int64_t kept_zeros = 0;          // by the values
  std::vector<std::int64_t> histogram;  // by the votes
  std::vector<std::string> problems;    // each begins with the matrix' name
  bool sound = true;                    // mask and values fit each other: the matrix can be unpacked
};

/// @param of_client  a client's own matrix: no votes, no merge
[[nodiscard]] Recount recount(const MatrixRecord& record, bool of_client);

/// Elements that are +0 or -0. @pre bytes.size() is a multiple of size_of(dtype)
[[nodiscard]] std::int64_t count_zeros(DType dtype, std::span<const std::byte> bytes);

/// Row-major index of the first element of `dense` (the model file's bytes) that is not bit for bit what
/// `matrix` unpacks to, or -1. @pre same size and dtype, packing_fault(matrix) is empty
[[nodiscard]] std::int64_t first_difference(const wire::PackedMatrix& matrix,
                                            std::span<const std::byte> dense);

}  // namespace fedspallm::store
