// SPDX-License-Identifier: Apache-2.0
#include "operands.hpp"

#include "kernels.hpp"

namespace fedspallm::backend::cuda {

DType type_of(Products products) {
  switch (products) {
    case Products::f16:
      return DType::f16;
    case Products::bf16:
      return DType::bf16;
    case Products::f32:
      break;
  }
  return DType::f32;
}

Operand operand_of(cudaStream_t stream, DType type, const View& view, std::byte* narrowed, bool transposed) {
  if (type == DType::f32) return {Access::data(view), view.stride(), transposed, 0};
  auto* elements = reinterpret_cast<std::uint16_t*>(narrowed);
  narrow_elements(stream, type, device_floats(view), elements);
  return {elements, view.cols(), transposed, 0};
}

Operand operand_at(DType type, const Operand& operand, std::int64_t row, std::int64_t column) {
  Operand part = operand;
  part.data = static_cast<const std::byte*>(operand.data) +
              static_cast<std::size_t>(row * operand.stride + column) * size_of(type);
  return part;
}

}  // namespace fedspallm::backend::cuda
