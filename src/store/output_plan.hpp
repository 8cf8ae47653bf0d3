// SPDX-License-Identifier: Apache-2.0
// Purpose: what an output model directory consists of: for each file the pieces in order, each a copy of
// input bytes, a widened copy or literal bytes, and which pieces are prunable matrices. The directory writer
// and the bitmask format both carry out this plan, so they cannot differ. Non-goals: writing
// (model_writer.cpp, bitmask_write.cpp).
#pragma once

#include "fedspallm/model/model_directory.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace fedspallm::store {

enum class SegmentKind : std::uint8_t { copy, widen, literal };

struct MatrixSlot {
  std::int64_t block = 0;
  std::size_t matrix = 0;
};

struct Segment {
  SegmentKind kind = SegmentKind::copy;
  std::int64_t offset = 0;          // in the output file
  std::int64_t bytes = 0;           // in the output file
  std::int64_t begin = 0, end = 0;  // copy, widen: range of the input file
  DType from = DType::f32;          // widen: dtype in the input
  std::string literal;
  std::string tensor;                // name, "" for anything but a tensor
  std::optional<MatrixSlot> matrix;  // set for prunable matrices
};

struct OutputFile {
  std::string name;
  std::filesystem::path source;
  std::int64_t bytes = 0;
  std::vector<Segment> segments;  // cover the file without gaps
};

struct OutputPlan {
  std::vector<OutputFile> files;
  bool widen = false;
  struct Place {
    std::size_t file = 0, segment = 0;
  };
  std::unordered_map<std::string, Place> tensors;
  [[nodiscard]] std::int64_t bytes() const;
};

/// Files that belong to the model: shards, index, and every other small file that is no weight file of
/// another format. Symbolic links are followed, sub-folders ignored. @throws ModelError naming a file that
/// cannot be used
[[nodiscard]] OutputPlan plan_output(const model::ModelDirectory& input, bool widen);

/// Calls consume(bytes) for the pieces of one segment of `file`, in order (an open mapping serves the whole
/// file).
void for_each_piece(const model::MappedFile* mapping, const Segment& segment,
                    const std::function<void(std::span<const std::byte>)>& consume);

/// Header of a safetensors file in which every 16-bit float tensor has become F32: u64 length and JSON,
/// padded to 8.
[[nodiscard]] std::string widened_header(const model::SafetensorsFile& shard);

}  // namespace fedspallm::store
