// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/error.hpp"
#include "fedspallm/prune/block_pruner.hpp"

namespace fedspallm::prune {

namespace {

/// A view of rows x cols on `tensor`, which is made larger when it has to be.
backend::View reserve(backend::Backend& backend, backend::Tensor& tensor, std::int64_t rows,
                      std::int64_t cols, backend::Element element) {
  const std::int64_t size = rows * cols;
  if (tensor.view().size() < size) {
    tensor = backend::Tensor{};  // free first: the old and the new one need not fit together
    tensor = backend.allocate(1, size, element);
  }
  return tensor.view().column_range(0, size).reshaped(rows, cols);
}

}  // namespace

Workspace::Workspace(backend::Backend& backend, const model::Architecture& architecture,
                     std::int64_t sequence_length)
    : backend_(backend),
      architecture_(architecture),
      sequence_length_(sequence_length),
      batch_rows_(model::rows_of_batch(sequence_length, backend.rows_per_batch())),
      forward_(backend, architecture, sequence_length, batch_rows_),
      input_(backend.allocate(batch_rows_, architecture.hidden_size)) {}

backend::View Workspace::stage(std::int64_t rows, std::int64_t cols) {
  return reserve(backend_, stage_, rows, cols, backend::Element::f32);
}

backend::View Workspace::mask(std::int64_t rows, std::int64_t cols) {
  return reserve(backend_, mask_, rows, cols, backend::Element::u8);
}

backend::View Workspace::previous_mask(std::int64_t rows, std::int64_t cols) {
  return reserve(backend_, previous_mask_, rows, cols, backend::Element::u8);
}

backend::View Workspace::hidden_copy(std::int64_t rows) {
  return reserve(backend_, hidden_copy_, rows, architecture_.hidden_size, backend::Element::f32);
}

}  // namespace fedspallm::prune
