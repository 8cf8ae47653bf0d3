// SPDX-License-Identifier: Apache-2.0
// Purpose: how the products of activations take fp32 views: as they are, or narrowed to the 16-bit type of
// Products into memory of the caller's. Non-goal: the products (blas.hpp).
#pragma once

#include "fedspallm/backend/backend.hpp"

#include "blas.hpp"
#include "engine.hpp"
#include <cstddef>
#include <cstdint>

namespace fedspallm::backend::cuda {

[[nodiscard]] DType type_of(Products products);

/// Elements of 16 bits that operand_of() writes for a view of `size` elements.
[[nodiscard]] constexpr std::int64_t narrowed_elements(DType type, std::int64_t size) {
  return type == DType::f32 ? 0 : size;
}
/// @param narrowed  room for narrowed_elements(type, view.size()); no operand may outlive them
[[nodiscard]] Operand operand_of(cudaStream_t stream, DType type, const View& view, std::byte* narrowed,
                                 bool transposed);
/// The operand from an element on.
[[nodiscard]] Operand operand_at(DType type, const Operand& operand, std::int64_t row, std::int64_t column);

}  // namespace fedspallm::backend::cuda
