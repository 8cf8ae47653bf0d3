// SPDX-License-Identifier: Apache-2.0
// Purpose: manifest.json: which block files there are, with size and checksum, and which linking file is
// good. It carries a checksum of its own, so that a damaged one is recognised. Non-goals: reading the files
// it lists.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace fedspallm::store {

/// How a file must look.
struct FileStamp {
  std::string file;  // name without folder
  std::uint64_t bytes = 0;
  std::uint64_t checksum = 0;  // xxh3
  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

struct BlockEntry {
  std::uint32_t round = 0, block = 0;
  FileStamp stamp;
};

struct Manifest {
  std::vector<BlockEntry> entries;  // ascending by (round, block)
  /// Good versions of the linking file, newest last: two while it is being replaced, since a rename of two
  /// files at once does not exist.
  std::vector<FileStamp> links;

  [[nodiscard]] const BlockEntry* find(std::uint32_t round, std::uint32_t block) const;
  void put(BlockEntry entry);
  void erase(std::uint32_t round, std::uint32_t block);
};

/// As text, with a checksum of its own, and back. @throws DataError that begins with `name`
[[nodiscard]] std::string to_text(const Manifest& manifest);
[[nodiscard]] Manifest manifest_from_text(const std::string& text, const std::string& name);
/// One entry, as it is in the manifest. @throws DataError
[[nodiscard]] std::string to_text(const BlockEntry& entry);
[[nodiscard]] BlockEntry entry_from_text(const std::string& text);

/// @throws DataError naming the file and what is wrong
[[nodiscard]] Manifest read_manifest(const std::filesystem::path& path);
void write_manifest(const std::filesystem::path& path, const Manifest& manifest);

/// Size and checksum of a file as it is now.
[[nodiscard]] FileStamp stamp_of(const std::filesystem::path& path);
/// @throws DataError "PATH: ..." when the file is missing, has another size or another checksum than `stamp`
void verify(const std::filesystem::path& path, const FileStamp& stamp);

}  // namespace fedspallm::store
