// SPDX-License-Identifier: Apache-2.0
// Purpose: run.h5 (or clients/NAME.h5): what the run was, and external links to its block files, so that any
// HDF5 reader sees one file:
//   /                  attributes format_version, kind = "fedspallm run", complete, rounds, block_count,
//                      sparsity
//   /config_toml       text: the configuration as resolved
//   /provenance        text: JSON object in the order recorded ("version", "git", "model_sha256", ...)
//   /clients, /token_sha256, /warnings    text: JSON arrays of strings
//   /blocks/rRR-bBBBB  external links, relative to this file's folder, so that the directory can be moved
// Non-goals: checksums and renaming (run_store.cpp).
#pragma once

#include "fedspallm/store/records.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace fedspallm::store {

struct LinkFile {
  Provenance provenance;
  bool complete = false;
};

/// @param targets  block files relative to the folder of `path`; the link is named by the file's stem
void write_link_file(const std::filesystem::path& path, const LinkFile& content,
                     const std::vector<std::filesystem::path>& targets);
/// @throws DataError naming file and object
[[nodiscard]] LinkFile read_link_file(const std::filesystem::path& path);

}  // namespace fedspallm::store
