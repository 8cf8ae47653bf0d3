// SPDX-License-Identifier: Apache-2.0
// Purpose: the preamble of model.fspm, shared by writing and reading. Layout of the file: bitmask.hpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace fedspallm::store {

constexpr const char* kBitmaskKind = "fedspallm bitmask model";
constexpr std::uint64_t kBitmaskMagic = 0x4D505346;  // "FSPM"
constexpr std::uint64_t kBitmaskVersion = 1;

/// The first 64 bytes as little-endian words.
using Preamble = std::array<std::uint64_t, 8>;
enum PreambleWord : std::size_t {
  kMagicAndVersion = 0,  // magic in the low half
  kHeaderOffset = 1,
  kHeaderBytes = 2,
  kHeaderChecksum = 3,
  kFileBytes = 4,
  kPreambleChecksum = 7,  // xxh3 of the words before; 5 and 6 are zero
};

}  // namespace fedspallm::store
