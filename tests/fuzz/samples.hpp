// SPDX-License-Identifier: Apache-2.0
// Purpose: a small sound block of records, from which targets and seeds start. Non-goal: real values.
#pragma once

#include "fedspallm/store/records.hpp"

#include <numeric>
#include <string>
#include <vector>

namespace fedspallm::fuzz {

/// rows x cols with the values 1, 2, 3, ...; every other weight is kept.
inline wire::PackedMatrix sample_matrix(std::int64_t rows, std::int64_t cols, DType dtype) {
  std::vector<float> dense(static_cast<std::size_t>(rows * cols));
  std::iota(dense.begin(), dense.end(), 1.0F);
  std::vector<std::uint8_t> kept(dense.size());
  for (std::size_t i = 0; i < kept.size(); ++i) kept[i] = i % 2 == 0;
  return wire::pack(rows, cols, dtype, dense, kept);
}

/// A merged matrix of two clients that dropped the same weights.
inline store::MatrixRecord sample_record(const std::string& name, wire::PackedMatrix matrix) {
  store::MatrixRecord record;
  record.name = name;
  for (std::int64_t i = 0; i < matrix.size(); ++i) record.votes.push_back(i % 2 == 0 ? 0 : 2);
  record.histogram = {matrix.kept, 0, matrix.dropped()};
  record.target = record.common_zeros = matrix.dropped();
  record.clients = {{.client = 0, .kept = matrix.kept, .report = {}},
                    {.client = 1, .kept = matrix.kept, .report = {}}};
  record.matrix = std::move(matrix);
  return record;
}

/// A float32 matrix, a bfloat16 one of the pattern 1:2, and one that nobody pruned.
inline store::BlockRecord sample_block() {
  store::BlockRecord block{.round = 1, .block = 0, .matrices = {}};
  block.matrices.push_back(sample_record("a.weight", sample_matrix(3, 5, DType::f32)));
  block.matrices.push_back(sample_record("b.weight", sample_matrix(2, 4, DType::bf16)));
  block.matrices.back().keep = 1;
  block.matrices.back().group = 2;
  store::MatrixRecord dense;
  dense.name = "c.weight";
  dense.pruned = false;
  dense.matrix.rows = 2;
  dense.matrix.cols = 2;
  block.matrices.push_back(dense);
  return block;
}

}  // namespace fedspallm::fuzz
