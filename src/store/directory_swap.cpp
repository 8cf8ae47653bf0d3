// SPDX-License-Identifier: Apache-2.0
#include "directory_swap.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/paths.hpp"

#include <fcntl.h>
#include <stdio.h>

#include "file_io.hpp"
#include <system_error>

namespace fedspallm::store {

namespace {

/// "dir/" and "dir/." name the same folder as "dir", but have no parent folder that holds it by name.
std::filesystem::path without_trailing_slash(const std::filesystem::path& path) {
  const std::filesystem::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

void rename_or_throw(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    throw ResourceError(errno_message(to, "cannot be put in place of its .part folder"));
}

}  // namespace

DirectorySwap::DirectorySwap(std::filesystem::path directory)
    : directory_(without_trailing_slash(directory)), part_(part_path(directory_)) {
  check<ConfigError>(!directory_.empty() && directory_.has_filename() && directory_.filename() != "..",
                     fmt::format("'{}': expected the name of an output directory", directory.string()));
  std::error_code error;
  const auto status = std::filesystem::status(directory_, error);
  check<ConfigError>(!std::filesystem::exists(status) || std::filesystem::is_directory(status),
                     fmt::format("{}: exists and is not a directory", directory_.string()));
}

DirectorySwap::~DirectorySwap() {
  std::error_code ignored;
  if (started_) std::filesystem::remove_all(part_, ignored);
}

void DirectorySwap::refuse_to_replace(const std::filesystem::path& input) const {
  for (const std::filesystem::path& folder : {directory_, part_})
    check<ConfigError>(
        !is_inside(input, folder).value_or(true),
        fmt::format("{}: writing there would replace the input {}", folder.string(), input.string()));
}

void DirectorySwap::start(std::int64_t needed) {
  remove_path(part_);
  make_folders(folder_of(part_));
  require_free_space(folder_of(part_), needed);
  make_folders(part_);
  started_ = true;
}

void DirectorySwap::publish() {
  sync_folder(part_);
  std::error_code error;
  if (!std::filesystem::exists(directory_, error)) {
    rename_or_throw(part_, directory_);
  } else if (::renameat2(AT_FDCWD, part_.c_str(), AT_FDCWD, directory_.c_str(), RENAME_EXCHANGE) == 0) {
    remove_path(part_);  // now the old directory
  } else {
    // No atomic exchange here (NFS, old kernels): DIR is missing for a moment, never half there.
    const std::filesystem::path old = directory_.string() + ".old.part";
    remove_path(old);
    rename_or_throw(directory_, old);
    rename_or_throw(part_, directory_);
    remove_path(old);
  }
  started_ = false;
  sync_folder(folder_of(directory_));
}

}  // namespace fedspallm::store
