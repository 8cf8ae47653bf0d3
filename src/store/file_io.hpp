// SPDX-License-Identifier: Apache-2.0
// Purpose: what every file that store/ writes needs: complete writes, fsync, rename,
// copies in big pieces, free space. Errors are ResourceError naming path and cause. Non-goals: HDF5
// (data/hdf5), formats.
#pragma once

#include "fedspallm/base/descriptor.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

namespace fedspallm::store {

/// "PATH: DOING: No space left on device" from errno.
[[nodiscard]] std::string errno_message(const std::filesystem::path& path, std::string_view doing);

/// Makes or empties `path` for reading and writing.
[[nodiscard]] Descriptor create_file(const std::filesystem::path& path);
[[nodiscard]] Descriptor open_file(const std::filesystem::path& path);
/// Writes all bytes at `offset`.
void write_at(const Descriptor& file, std::int64_t offset, std::span<const std::byte> bytes,
              const std::filesystem::path& path);
/// Copies [begin, end) of `from` to `offset` of `to`, inside the kernel where that is possible.
void copy_range(const Descriptor& from, std::int64_t begin, std::int64_t end, const Descriptor& to,
                std::int64_t offset, const std::filesystem::path& from_path,
                const std::filesystem::path& to_path);
void sync(const Descriptor& file, const std::filesystem::path& path);
/// fsync by name: of a file that a library wrote, or of a folder whose entries changed.
void sync_file(const std::filesystem::path& path);
void sync_folder(const std::filesystem::path& folder);

/// fsyncs PART, renames it to PATH, fsyncs the folder.
void publish_file(const std::filesystem::path& part, const std::filesystem::path& path);
/// Makes PART by `write`, and leaves no remains where that fails.
template <class Write>
void write_part(const std::filesystem::path& part, Write write) {
  try {
    write();
  } catch (...) {
    std::error_code ignored;  // best effort: a full disk should not also keep our remains
    std::filesystem::remove(part, ignored);
    throw;
  }
}
/// PATH.part
[[nodiscard]] std::filesystem::path part_path(const std::filesystem::path& path);
/// The folder that holds `path`: "." for a bare name.
[[nodiscard]] std::filesystem::path folder_of(const std::filesystem::path& path);
void make_folders(const std::filesystem::path& folder);
/// Removes a file or a tree when it is there.
void remove_path(const std::filesystem::path& path);

/// @throws ResourceError with the bytes needed and free when the file system of `folder` has fewer than
/// `needed`.
void require_free_space(const std::filesystem::path& folder, std::int64_t needed);
/// "1234 bytes" or "1.2 GiB (1234567890 bytes)".
[[nodiscard]] std::string format_bytes(std::int64_t bytes);

/// The whole of a small text file. @throws DataError naming the file; `limit` guards against mistaken paths
[[nodiscard]] std::string read_small_file(const std::filesystem::path& path, std::int64_t limit);

}  // namespace fedspallm::store
