// SPDX-License-Identifier: Apache-2.0
// Purpose: a Hugging Face model directory opened for reading: config.json, model.safetensors or the index
// with its shards. Opening checks that every tensor the architecture needs is there with its shape, that the
// index and the shards agree, and that nothing is stale or missing. Unknown tensors are allowed (they pass
// through). Non-goals: writing one (store/model_writer.hpp), tokenizers.
#pragma once

#include "fedspallm/model/architecture.hpp"
#include "fedspallm/model/safetensors.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fedspallm::model {

/// Where a tensor's bytes are.
struct TensorView {
  const TensorEntry* entry = nullptr;
  std::size_t shard = 0;
  std::span<const std::byte> bytes;
  [[nodiscard]] DType dtype() const { return *entry->dtype; }
};

class ModelDirectory {
 public:
  /// @throws ModelError naming file, tensor, what was found and expected.
  explicit ModelDirectory(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const Architecture& architecture() const { return architecture_; }
  [[nodiscard]] const std::vector<SafetensorsFile>& shards() const { return shards_; }
  [[nodiscard]] bool sharded() const { return sharded_; }  // has model.safetensors.index.json
  /// @throws ModelError when absent.
  [[nodiscard]] TensorView tensor(std::string_view name) const;
  [[nodiscard]] bool contains(std::string_view name) const;
  /// Full tensor name of a prunable matrix: "model.layers.3.mlp.up_proj.weight".
  [[nodiscard]] std::string matrix_name(std::int64_t block, std::size_t matrix) const;
  /// Dtype in which the prunable matrix is stored.
  [[nodiscard]] DType matrix_dtype(std::int64_t block, std::size_t matrix) const;
  /// Number of weights in the pruned set (all blocks).
  [[nodiscard]] std::int64_t prunable_weights() const;
  /// Hints that this block's weights are needed soon, so that they are read while something else is computed.
  /// Nothing for a block that the model does not have.
  void will_need_block(std::int64_t block) const noexcept;
  /// SHA-256 of the directory's identity: of the lines "SHA-256  NAME" of config.json, index and all shards.
  /// Reads everything, `threads` files at a time.
  /// @param beat  called again and again meanwhile, on any of the threads
  [[nodiscard]] std::string digest(int threads = 1, const std::function<void()>& beat = {}) const;
  /// SHA-256 of tokenizer.json, or "" when there is none.
  [[nodiscard]] std::string tokenizer_digest() const;

 private:
  struct Location {
    std::string name;
    std::size_t shard;
    std::size_t entry;
  };
  void open_single_file();
  void open_shards();
  /// With or without "model.", own or tied head.
  void settle_names();
  void check_tensors() const;
  void check_no_others(const std::set<std::string>& known) const;
  [[nodiscard]] const Location* find(std::string_view name) const;
  [[noreturn]] void fail_missing(std::string_view name) const;

  std::filesystem::path path_;
  Architecture architecture_;
  std::vector<SafetensorsFile> shards_;
  bool sharded_ = false;
  std::vector<Location> locations_;  // sorted by name
};

}  // namespace fedspallm::model
