// SPDX-License-Identifier: Apache-2.0
// Purpose: the run directory's HDF5 files as the one process sees them that keeps the list of block files
// (block_files.hpp): manifest.json with checksums, replaced by rename after each block; run.h5 (config,
// provenance, external links to the blocks), rewritten whole. A reader never sees a torn file as complete; no
// file stays open across blocks. Non-goals: hidden states (resume), the model directory (model_writer.hpp).
#pragma once

#include "fedspallm/store/block_files.hpp"
#include "fedspallm/store/records.hpp"

#include <filesystem>
#include <string>
#include <string_view>

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

/// Block files with a manifest and a linking file: the run's merged blocks, or one client's updates. One
/// process keeps them. Readers change nothing on disk and need no locks.
class BlockStore : public BlockFiles {
 public:
  /// @param link_file  run.h5 or clients/NAME.h5; the block files are in `folder`, the manifest is
  /// `manifest`. Folders are created by the first write. Existing content is kept until clear(). A damaged
  /// manifest is no error here: clear() must work then; every other member throws DataError naming it.
  BlockStore(std::filesystem::path link_file, std::filesystem::path folder, std::filesystem::path manifest);
  [[nodiscard]] static BlockStore of_run(const RunPaths& paths);
  /// clients/NAME.h5, with blocks and manifest in clients/NAME/ (NAME: client_file_name).
  [[nodiscard]] static BlockStore of_client(const RunPaths& paths, const std::string& client_name);

  /// Removes what an earlier, unfinished or superseded run left (only files this class makes).
  void clear();
  /// For a run that goes on: removes files that a killed process left unfinished, and takes up the manifest
  /// before a damaged newest one. @return what happened, for the log; "" = the newest
  /// one is sound, or there is none. @throws DataError when neither is sound
  std::string recover();
  /// write_file(), and replaces the manifest. A block written again replaces the earlier one.
  void write_block(const BlockRecord& record);
  /// Blocks at or after this one count as not written, durably; their files go. For a run that computes them
  /// anew, perhaps to other bits. @throws DataError where the manifest is damaged; ResourceError
  void forget_from(std::uint32_t round, std::uint32_t block);
  /// Takes up what write_file() of another process returned, and replaces the manifest. @throws DataError for
  /// text that is no entry of a block file; ResourceError
  void list_block(const std::string& entry);
  /// Rewrites the linking file: config, provenance, external links to all blocks written. `complete` marks a
  /// finished run.
  void write_links(const Provenance& provenance, bool complete);

  [[nodiscard]] Provenance read_provenance() const;
  /// The linking file exists and is marked complete. @throws DataError when it exists and is damaged
  [[nodiscard]] bool complete() const;
  [[nodiscard]] const std::filesystem::path& link_file() const { return link_file_; }

 private:
  void replace_manifest();
  void remove_unfinished();
  [[nodiscard]] std::filesystem::path previous_manifest() const;
  void verify_link_file() const;
  std::filesystem::path link_file_, manifest_path_;
};

/// The entry of a provenance that tells the run: resume.json's run_id.
inline constexpr const char* kRunIdEntry = "run_id";

/// @throws DataError when a client's file records another run than the directory it lies in
void check_client_is_of_run(const RunPaths& paths, const BlockStore& client);

}  // namespace fedspallm::store
