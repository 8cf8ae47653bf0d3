// SPDX-License-Identifier: Apache-2.0
#include "file_io.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/store/run_store.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

namespace fedspallm::store {

namespace {

constexpr std::int64_t kKernelCopyPiece = std::int64_t{1}
                                          << 30;  // copy_file_range's count is capped near 2 GiB
constexpr std::int64_t kUserCopyPiece = std::int64_t{4} << 20;
constexpr mode_t kFileMode = 0666;  // the umask decides

[[noreturn]] void fail(const std::filesystem::path& path, std::string_view doing) {
  throw ResourceError(errno_message(path, doing));
}

/// Copies with copy_file_range as far as it goes. @return where it stopped: `end`, or earlier where the file
/// systems cannot (different ones on old kernels, FUSE, ...), so that the caller goes on in user space.
std::int64_t copy_in_kernel(int from, std::int64_t begin, std::int64_t end, int to, std::int64_t offset,
                            const std::filesystem::path& to_path) {
  off_t in = begin;
  off_t out = offset;
  while (in < end) {
    const auto piece = static_cast<std::size_t>(std::min(end - in, kKernelCopyPiece));
    const ssize_t copied = copy_file_range(from, &in, to, &out, piece, 0);
    if (copied > 0) continue;
    if (copied == 0) return in;
    if (errno == EINTR) continue;
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == EIO) fail(to_path, "cannot write");
    return in;
  }
  return in;
}

}  // namespace

std::string errno_message(const std::filesystem::path& path, std::string_view doing) {
  const int code = errno;
  return fmt::format("{}: {}: {}", path.string(), doing, std::generic_category().message(code));
}

Descriptor create_file(const std::filesystem::path& path) {
  Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, kFileMode));
  if (!file) fail(path, "cannot be created");
  return file;
}

Descriptor open_file(const std::filesystem::path& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) fail(path, "cannot be opened for reading");
  return file;
}

void write_at(const Descriptor& file, std::int64_t offset, std::span<const std::byte> bytes,
              const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const std::size_t piece = std::min<std::size_t>(bytes.size(), static_cast<std::size_t>(kKernelCopyPiece));
    const ssize_t written = ::pwrite(file.get(), bytes.data(), piece, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(path, "cannot write");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += written;
  }
}

void copy_range(const Descriptor& from, std::int64_t begin, std::int64_t end, const Descriptor& to,
                std::int64_t offset, const std::filesystem::path& from_path,
                const std::filesystem::path& to_path) {
  std::int64_t done = copy_in_kernel(from.get(), begin, end, to.get(), offset, to_path);
  std::vector<std::byte> buffer;
  while (done < end) {
    buffer.resize(static_cast<std::size_t>(std::min(end - done, kUserCopyPiece)));
    const ssize_t got = ::pread(from.get(), buffer.data(), buffer.size(), done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(from_path, "cannot read");
    check<ResourceError>(got > 0, fmt::format("{}: ends at byte {} while it is copied, expected {}",
                                              from_path.string(), done, end));
    write_at(to, offset + (done - begin), std::span(buffer).first(static_cast<std::size_t>(got)), to_path);
    done += got;
  }
}

void sync(const Descriptor& file, const std::filesystem::path& path) {
  if (::fsync(file.get()) != 0) fail(path, "cannot be made durable (fsync)");
}

void sync_file(const std::filesystem::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) fail(path, "cannot be opened for fsync");
  sync(file, path);
}

void sync_folder(const std::filesystem::path& folder) {
  const Descriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!descriptor) fail(folder, "cannot be opened for fsync");
  // Some network and FUSE file systems have no fsync of folders; there a rename is as durable as it gets.
  if (::fsync(descriptor.get()) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EROFS)
    fail(folder, "cannot be made durable (fsync)");
}

void publish_file(const std::filesystem::path& part, const std::filesystem::path& path) {
  sync_file(part);
  if (::rename(part.c_str(), path.c_str()) != 0) fail(path, "cannot be put in place of its .part file");
  sync_folder(folder_of(path));
}

std::filesystem::path part_path(const std::filesystem::path& path) {
  return path.string() + ".part";
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

void make_folders(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  check<ResourceError>(!error,
                       fmt::format("{}: cannot make the folder: {}", folder.string(), error.message()));
}

void remove_path(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  check<ResourceError>(!error, fmt::format("{}: cannot be removed: {}", path.string(), error.message()));
}

void require_free_space(const std::filesystem::path& folder, std::int64_t needed) {
  struct statvfs status {};
  if (::statvfs(folder.c_str(), &status) != 0) fail(folder, "cannot ask for the free space");
  const auto free = static_cast<std::int64_t>(status.f_bavail) * static_cast<std::int64_t>(status.f_frsize);
  check<ResourceError>(free >= needed,
                       fmt::format("{}: too little disk space: {} needed, {} free", folder.string(),
                                   format_bytes(needed), format_bytes(free)));
}

std::string format_bytes(std::int64_t bytes) {
  constexpr double kMebibyte = 1024.0 * 1024.0;
  const auto value = static_cast<double>(bytes);
  if (value < kMebibyte) return fmt::format("{} bytes", bytes);
  if (value < 1024 * kMebibyte) return fmt::format("{:.1f} MiB ({} bytes)", value / kMebibyte, bytes);
  return fmt::format("{:.1f} GiB ({} bytes)", value / (1024 * kMebibyte), bytes);
}

std::string read_small_file(const std::filesystem::path& path, std::int64_t limit) {
  // O_NONBLOCK: a named pipe must not block the open; it is refused below.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  check<DataError>(static_cast<bool>(file), errno_message(path, "cannot be opened for reading"));
  struct stat status {};
  check<DataError>(::fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode),
                   fmt::format("{}: is not a regular file", path.string()));
  check<DataError>(status.st_size <= limit, fmt::format("{}: has {} bytes, expected at most {}",
                                                        path.string(), status.st_size, limit));
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::pread(file.get(), text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    check<DataError>(got > 0, fmt::format("{}: cannot be read to its end", path.string()));
    done += static_cast<std::size_t>(got);
  }
  return text;
}

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  const std::filesystem::path part = part_path(path);
  write_part(part, [&] {
    const Descriptor file = create_file(part);
    write_at(file, 0, std::as_bytes(std::span(bytes.data(), bytes.size())), part);
    publish_file(part, path);
  });
}

}  // namespace fedspallm::store
