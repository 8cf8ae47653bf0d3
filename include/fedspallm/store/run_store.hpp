// SPDX-License-Identifier: Apache-2.0
// Purpose: the run directory's HDF5 files. Each (round, block) is its own file, written as .part, closed,
// fsynced and renamed; then manifest.json with checksums is replaced by rename; run.h5 (config, provenance,
// external links to the blocks) is rewritten whole. A reader never sees a torn file as complete; no file
// stays open across blocks. Non-goals: hidden states (resume), the model directory (model_writer.hpp).
#pragma once

#include "fedspallm/store/records.hpp"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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

/// Writes `bytes` to PATH.part, fsyncs, renames to PATH, fsyncs the folder. @throws ResourceError naming path
/// and cause.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// The name under which a client's files are kept: letters, digits, '.', '-', '_' and ' ' as they are (no
/// leading '.'), other bytes as %XX, so that any client name is one plain file name.
[[nodiscard]] std::string client_file_name(const std::string& client_name);

struct Manifest;

/// A set of block files with a manifest and a linking file: the run's merged blocks, or one client's updates.
/// One writer per store. Readers change nothing on disk and need no locks.
class BlockStore {
 public:
  /// @param link_file  run.h5 or clients/NAME.h5; the block files are in `folder`, the manifest is
  /// `manifest`. Folders are created by the first write. Existing content is kept until clear(). A damaged
  /// manifest is no error here: clear() must work then; every other member throws DataError naming it.
  BlockStore(std::filesystem::path link_file, std::filesystem::path folder, std::filesystem::path manifest);
  ~BlockStore();
  BlockStore(BlockStore&&) noexcept;
  BlockStore& operator=(BlockStore&&) noexcept;
  [[nodiscard]] static BlockStore of_run(const RunPaths& paths);
  /// clients/NAME.h5, with blocks and manifest in clients/NAME/ (NAME: client_file_name).
  [[nodiscard]] static BlockStore of_client(const RunPaths& paths, const std::string& client_name);

  /// Removes what an earlier, unfinished or superseded run left (only files this class makes).
  void clear();
  /// For a run that goes on: removes files that a killed process left unfinished, and takes up the manifest
  /// before a damaged newest one. @return what happened, for the log; "" = the newest
  /// one is sound, or there is none. @throws DataError when neither is sound
  std::string recover();
  /// Writes one block file and replaces the manifest. A block written again replaces the earlier one. @throws
  /// ResourceError
  /// @pre pruned matrices agree with their counts; votes are empty or one per weight
  void write_block(const BlockRecord& record);
  /// Rewrites the linking file: config, provenance, external links to all blocks written. `complete` marks a
  /// finished run.
  void write_links(const Provenance& provenance, bool complete);

  /// @throws DataError naming the file when missing, torn (checksum of the manifest differs) or malformed.
  [[nodiscard]] BlockRecord read_block(std::uint32_t round, std::uint32_t block) const;
  /// The same without comparing counts with masks: `inspect` wants to see what the record claims.
  [[nodiscard]] BlockRecord read_block_as_recorded(std::uint32_t round, std::uint32_t block) const;
  /// Whether the manifest lists it; read_block() finds out whether the file is good.
  [[nodiscard]] bool has_block(std::uint32_t round, std::uint32_t block) const;
  [[nodiscard]] Provenance read_provenance() const;
  /// The linking file exists and is marked complete. @throws DataError when it exists and is damaged
  [[nodiscard]] bool complete() const;
  /// (round, block) pairs in the manifest, ascending.
  [[nodiscard]] std::vector<std::pair<std::uint32_t, std::uint32_t>> blocks() const;
  /// The newest round in which `block` was written, nothing when it never was.
  [[nodiscard]] std::optional<std::uint32_t> newest_round(std::uint32_t block) const;
  /// The newest record of `block` over the rounds, nothing when it was never pruned.
  [[nodiscard]] std::optional<BlockRecord> newest(std::uint32_t block) const;
  [[nodiscard]] const std::filesystem::path& link_file() const { return link_file_; }
  [[nodiscard]] std::filesystem::path block_file(std::uint32_t round, std::uint32_t block) const;

 private:
  [[nodiscard]] const Manifest& sound_manifest() const;
  void replace_manifest();
  void remove_unfinished();
  [[nodiscard]] std::filesystem::path previous_manifest() const;
  void verify_link_file() const;
  std::filesystem::path link_file_, folder_, manifest_path_;
  std::unique_ptr<Manifest> manifest_;
  std::string damage_;  // of the manifest; "" = none
};

/// The merged block as bytes for clients of the next round, and back (checksummed; checked before use). What
/// a client needs travels: round, block and of each matrix name, pruned, shape, dtype, N:M, mask and values.
/// Votes, histogram, counts of the merge and other clients' statistics do not.
/// @pre pruned matrices agree with their counts
[[nodiscard]] std::vector<std::byte> encode_block(const BlockRecord& record);
/// @throws DataError: what was found, what was expected
[[nodiscard]] BlockRecord decode_block(std::span<const std::byte> bytes);

}  // namespace fedspallm::store
