// SPDX-License-Identifier: Apache-2.0
// Purpose: the run directory's HDF5 files. Each (round, block) is its own file, written as .part, closed, fsynced and
// renamed; then manifest.json with checksums is replaced by rename; run.h5 (config, provenance, external links to the
// blocks) is rewritten whole. A reader never sees a torn file as complete; no file stays open across blocks.
// Non-goals: hidden states (resume), the model directory (model_writer.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fedspallm/store/records.hpp"

namespace fedspallm::store {

/// Paths inside a run directory.
struct RunPaths {
  std::filesystem::path dir;
  [[nodiscard]] std::filesystem::path run_file() const { return dir / "run.h5"; }
  [[nodiscard]] std::filesystem::path manifest() const { return dir / "manifest.json"; }
  [[nodiscard]] std::filesystem::path blocks() const { return dir / "blocks"; }
  [[nodiscard]] std::filesystem::path clients() const { return dir / "clients"; }
  [[nodiscard]] std::filesystem::path model() const { return dir / "model"; }
  [[nodiscard]] std::filesystem::path summary() const { return dir / "summary.json"; }
  [[nodiscard]] std::filesystem::path metrics() const { return dir / "metrics.jsonl"; }
  [[nodiscard]] std::filesystem::path config() const { return dir / "config.toml"; }
};

/// Writes `bytes` to PATH.part, fsyncs, renames to PATH, fsyncs the folder. @throws ResourceError naming path and cause.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// A set of block files with a manifest and a linking file: the run's merged blocks, or one client's updates.
class BlockStore {
 public:
  /// @param link_file  run.h5 or clients/NAME.h5; the block files are in `folder`, the manifest is `manifest`.
  /// Folders are created. Existing content is kept until clear().
  BlockStore(std::filesystem::path link_file, std::filesystem::path folder, std::filesystem::path manifest);
  [[nodiscard]] static BlockStore of_run(const RunPaths& paths);
  [[nodiscard]] static BlockStore of_client(const RunPaths& paths, const std::string& client_name);

  /// Removes what an earlier, unfinished or superseded run left (only files this class makes).
  void clear();
  /// Writes one block file and replaces the manifest. @throws ResourceError
  void write_block(const BlockRecord& record);
  /// Rewrites the linking file: config, provenance, external links to all blocks written. `complete` marks a finished run.
  void write_links(const Provenance& provenance, bool complete);

  /// @throws DataError naming the file when missing, torn (checksum of the manifest differs) or malformed.
  [[nodiscard]] BlockRecord read_block(std::uint32_t round, std::uint32_t block) const;
  [[nodiscard]] bool has_block(std::uint32_t round, std::uint32_t block) const;
  [[nodiscard]] Provenance read_provenance() const;
  [[nodiscard]] bool complete() const;  // the linking file exists and is marked complete
  /// (round, block) pairs in the manifest, ascending.
  [[nodiscard]] std::vector<std::pair<std::uint32_t, std::uint32_t>> blocks() const;
  /// The newest record of `block` over the rounds, nothing when it was never pruned.
  [[nodiscard]] std::optional<BlockRecord> newest(std::uint32_t block) const;

 private:
  std::filesystem::path link_file_, folder_, manifest_;
  struct Entry {
    std::uint32_t round, block;
    std::string file;
    std::uint64_t bytes, checksum;
  };
  std::vector<Entry> entries_;
  void load_manifest();
  void save_manifest() const;
};

/// The merged block as bytes for clients of the next round, and back (checksummed; checked before use).
[[nodiscard]] std::vector<std::byte> encode_block(const BlockRecord& record);
[[nodiscard]] BlockRecord decode_block(std::span<const std::byte> bytes);

}  // namespace fedspallm::store
