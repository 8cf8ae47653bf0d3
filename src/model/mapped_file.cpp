// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/descriptor.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/model/safetensors.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace fedspallm::model {

namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* doing, int error) {
  const std::string message = fmt::format("{}: cannot {}: {}", path.string(), doing, std::strerror(error));
  if (error == ENOMEM || error == EMFILE || error == ENFILE) throw ResourceError(message);
  throw ModelError(message);
}

void advise(std::span<const std::byte> range, int advice) noexcept {
  if (range.empty()) return;
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(range.data());
  const std::uintptr_t start = first / page * page;
  // Only a hint, and the mapping is read-only: whole pages around the range are safe, failure is harmless.
  ::madvise(reinterpret_cast<void*>(start), first - start + range.size(), advice);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  // O_NONBLOCK: a named pipe must not block the open; it is refused below.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) fail(path, "open it", errno);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(path, "read its size", errno);
  check<ModelError>(S_ISREG(status.st_mode), fmt::format("{}: is not a regular file", path.string()));
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;  // mmap refuses empty ranges
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) fail(path, "map it into memory", errno);
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::will_need(std::span<const std::byte> range) const noexcept {
  advise(range, MADV_WILLNEED);
}

void MappedFile::drop(std::span<const std::byte> range) const noexcept {
  advise(range, MADV_DONTNEED);
}

}  // namespace fedspallm::model
