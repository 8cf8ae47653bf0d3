// SPDX-License-Identifier: Apache-2.0
// Purpose: checksums (xxh3, 64 bits: fast, against accidents) and digests (SHA-256: identity of files).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace fedspallm {

[[nodiscard]] std::uint64_t checksum(std::span<const std::byte> bytes);
/// Lower-case hexadecimal SHA-256.
[[nodiscard]] std::string sha256(std::span<const std::byte> bytes);
/// @throws ResourceError naming the file when it cannot be read.
[[nodiscard]] std::string sha256_of_file(const std::filesystem::path& path);
[[nodiscard]] std::uint64_t checksum_of_file(const std::filesystem::path& path);

}  // namespace fedspallm
