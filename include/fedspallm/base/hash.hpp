// SPDX-License-Identifier: Apache-2.0
// Purpose: checksums (xxh3, 64 bits: fast, against accidents) and digests (SHA-256: identity of files).
// Non-goals: guarding against an attacker; what is compared with what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace fedspallm {

[[nodiscard]] std::uint64_t checksum(std::span<const std::byte> bytes);
/// checksum() of bytes that come in pieces.
class RunningChecksum {
 public:
  RunningChecksum();
  ~RunningChecksum();
  RunningChecksum(const RunningChecksum&) = delete;
  RunningChecksum& operator=(const RunningChecksum&) = delete;
  void add(std::span<const std::byte> bytes);
  /// Of what was added so far.
  [[nodiscard]] std::uint64_t value() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
/// Lower-case hexadecimal SHA-256.
[[nodiscard]] std::string sha256(std::span<const std::byte> bytes);
/// @param beat  called after each MiB: a large file takes minutes
/// @throws ResourceError naming the file when it cannot be read.
[[nodiscard]] std::string sha256_of_file(const std::filesystem::path& path,
                                         const std::function<void()>& beat = {});
[[nodiscard]] std::uint64_t checksum_of_file(const std::filesystem::path& path);

}  // namespace fedspallm
