// SPDX-License-Identifier: Apache-2.0
// Purpose: checksums as text in JSON (numbers of 64 bits do not survive every JSON reader).
#pragma once

#include "fedspallm/base/error.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <string>

namespace fedspallm::store {

[[nodiscard]] inline std::string to_hex(std::uint64_t value) {
  return fmt::format("{:016x}", value);
}

/// @throws DataError
[[nodiscard]] inline std::uint64_t from_hex(const std::string& text) {
  check<DataError>(text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string::npos,
                   fmt::format("checksum '{}', expected 16 hexadecimal digits", text));
  return std::stoull(text, nullptr, 16);
}

}  // namespace fedspallm::store
