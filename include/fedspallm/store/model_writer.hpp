// SPDX-License-Identifier: Apache-2.0
// Purpose: the output model directory: the input's shards with only the data of pruned matrices changed,
// header bytes, names, dtypes, config.json and tokenizer files copied byte for byte, exact zeros. A pure
// function of the input model and the blocks (rulings.md 15, 18). Several processes may share the work: one
// of them starts and finishes, each shard has one writer. Non-goal: who writes which shard.
#pragma once

#include "fedspallm/model/model_directory.hpp"
#include "fedspallm/store/records.hpp"

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

namespace fedspallm::store {

/// The pruned matrices of a block, nothing where the block stays dense. Votes are not looked at.
using BlockSource = std::function<std::optional<BlockRecord>(std::int64_t block)>;

class ModelWriter {
 public:
  /// Plans only; nothing changes on disk. With `widen` (model.dtype = "float32" on a 16-bit input) shards are
  /// written as F32, and so says config.json. `input` must outlive the writer.
  /// @throws ModelError, ConfigError: what of the input or of `directory` cannot be used
  ModelWriter(const model::ModelDirectory& input, std::filesystem::path directory, bool widen = false);
  /// Removes DIR.part where start() was called and finish() was not reached.
  ~ModelWriter();
  ModelWriter(const ModelWriter&) = delete;
  ModelWriter& operator=(const ModelWriter&) = delete;

  /// One process, first: makes DIR.part (an existing one is removed) with every file of the input directory
  /// that belongs to a Hugging Face model, shards apart (index, config.json, generation_config.json,
  /// tokenizer files, chat template, other small files).
  /// @throws ConfigError when that would destroy the input; ResourceError with the bytes needed and free when
  /// the disk is too small for all of the model
  void start();
  [[nodiscard]] std::size_t shards() const;
  /// Any process, after another's start() too: writes one shard, durable. Asks once for each block that has
  /// matrices in it, `threads` of them at a time, and holds no more.
  /// @pre threads >= 1, `blocks` may be called by so many at once; shapes and dtypes of records agree with
  /// the input's (dtype: float32 with `widen`)
  /// @throws ResourceError naming the file; whatever `blocks` throws
  void write_shard(std::size_t shard, const BlockSource& blocks, int threads = 1) const;
  /// One process, after all shards: renames DIR.part -> DIR (an existing DIR is replaced).
  /// @throws ResourceError where a file is not there, or not whole
  void finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// All of it by this process.
void write_model(const model::ModelDirectory& input, const std::filesystem::path& directory, bool widen,
                 const BlockSource& blocks, int threads = 1);

}  // namespace fedspallm::store
