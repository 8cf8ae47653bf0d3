// SPDX-License-Identifier: Apache-2.0
// What a folder's file system has and can do: free space, flock, fsync and rename.
#include "fedspallm/base/descriptor.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/report/system.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>

namespace fedspallm::report {

namespace {

/// A new file in a folder, removed at the end of its life, also under its second name.
class ProbeFile {
 public:
  explicit ProbeFile(const std::filesystem::path& folder)
      : path_((folder / ".fedspallm-probe-XXXXXX").string()), file_(::mkostemp(path_.data(), O_CLOEXEC)) {}
  ~ProbeFile() {
    if (!file_) return;
    ::unlink(path_.c_str());
    ::unlink(renamed().c_str());
  }
  ProbeFile(const ProbeFile&) = delete;
  ProbeFile& operator=(const ProbeFile&) = delete;
  [[nodiscard]] bool open() const { return static_cast<bool>(file_); }
  [[nodiscard]] int get() const { return file_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string renamed() const { return path_ + ".renamed"; }

 private:
  std::string path_;
  Descriptor file_;
};

std::string failure(const char* what) {
  return fmt::format("no: {}: {}", what, std::strerror(errno));
}

}  // namespace

std::int64_t free_disk_bytes(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::path existing = std::filesystem::absolute(path, error);
  while (!std::filesystem::exists(existing, error) && existing.has_relative_path())
    existing = existing.parent_path();
  struct statvfs answer {};
  const int result = ::statvfs(existing.c_str(), &answer);
  check<ResourceError>(result == 0, fmt::format("{}: its file system does not tell its free space: {}",
                                                existing.string(), std::strerror(errno)));
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const std::uint64_t unit = answer.f_frsize > 0 ? answer.f_frsize : 1;
  return answer.f_bavail > kMost / unit ? std::numeric_limits<std::int64_t>::max()
                                        : static_cast<std::int64_t>(answer.f_bavail * unit);
}

std::string probe_file_lock(const std::filesystem::path& folder) {
  const ProbeFile file(folder);
  if (!file.open()) return failure("cannot create a file");
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) return failure("flock");
  const Descriptor second(::open(file.path().c_str(), O_RDWR | O_CLOEXEC));
  if (!second) return failure("cannot open a file twice");
  if (::flock(second.get(), LOCK_EX | LOCK_NB) == 0) return "no: a second holder got the same lock";
  if (errno != EWOULDBLOCK) return failure("flock of a second holder");
  if (::flock(file.get(), LOCK_UN) != 0) return failure("unlocking");
  if (::flock(second.get(), LOCK_EX | LOCK_NB) != 0) return failure("flock after unlocking");
  return "yes";
}

std::string probe_fsync(const std::filesystem::path& folder) {
  const auto begin = std::chrono::steady_clock::now();
  const ProbeFile file(folder);
  if (!file.open()) return failure("cannot create a file");
  const std::string text(4096, 'x');
  if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return failure("cannot write");
  if (::fsync(file.get()) != 0) return failure("fsync of a file");
  if (::rename(file.path().c_str(), file.renamed().c_str()) != 0) return failure("rename");
  const Descriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return failure("cannot open the folder");
  if (::fsync(directory.get()) != 0) return failure("fsync of the folder");
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begin;
  return fmt::format("yes ({:.1f} ms)", taken.count());
}

}  // namespace fedspallm::report
