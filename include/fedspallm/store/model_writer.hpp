// SPDX-License-Identifier: Apache-2.0
// Purpose: the output model directory: the input's shards with only the data of pruned matrices changed,
// header bytes, names, dtypes, config.json and tokenizer files copied byte for byte, exact zeros. A pure
// function of the input model and the blocks; everything is written under *.part and renamed at the end
// (rulings.md 15, 18).
#pragma once

#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/wire/update.hpp"

#include <filesystem>
#include <memory>
#include <span>

namespace fedspallm::store {

class ModelWriter {
 public:
  /// Creates DIR.part (an existing one is removed) and copies every file of the input directory that belongs
  /// to a Hugging Face model (shards, index, config.json, generation_config.json, tokenizer files, chat
  /// template, other small files). With `widen` (model.dtype = "float32" on a 16-bit input) shards are
  /// rewritten as F32, and so says config.json.
  /// @throws ResourceError with the bytes needed and free when the disk is too small.
  ModelWriter(const model::ModelDirectory& input, std::filesystem::path directory, bool widen = false);
  ~ModelWriter();
  ModelWriter(const ModelWriter&) = delete;
  ModelWriter& operator=(const ModelWriter&) = delete;

  /// Overwrites one matrix. Safe to call again for the same matrix (later rounds). @pre shape and dtype agree
  /// with the input's
  void write_matrix(std::int64_t block, std::size_t matrix, const wire::PackedMatrix& packed);
  /// fsync, rename DIR.part -> DIR (an existing DIR is replaced).
  void finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fedspallm::store
