// SPDX-License-Identifier: Apache-2.0
// Purpose: the 128 header bytes of an encoded update, written and read field by field, little-endian whatever
// the machine is. Non-goals: the payload, checks against what the receiver expects (update.cpp).
//
//   offset size field                offset size field                 offset size field
//        0    4 magic "FSPU"             40    8 kept weights               88    4 damping (f32)
//        4    4 format version           48    1 dtype                      92    4 reserved, 0
//        8    4 round                    49    1 has a diagonal (0, 1)      96    8 payload bytes
//       12    4 block                    50    2 reserved, 0               104    8 xxh3 of the payload
//       16    4 matrix                   52    4 damping steps             112    8 reserved, 0
//       20    4 client                   56    8 error (f64)               120    8 xxh3 of bytes 0..119
//       24    8 rows                     64    8 seconds (f64)
//       32    8 columns                  72    8 kept zeros
//                                        80    8 dead columns
#pragma once

#include "fedspallm/wire/update.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace fedspallm::wire {

struct Header {
  UnitId unit;
  std::uint32_t client = 0;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t kept = 0;
  std::uint8_t dtype = 0;
  std::uint8_t has_diagonal = 0;
  MatrixReport report;
  std::uint64_t payload_bytes = 0;
  std::uint64_t payload_checksum = 0;
};

/// What encode() and device_image() ask of an update. @throws LogicError
void require_consistent(const MatrixUpdate& update);

/// All fields but those of the payload.
[[nodiscard]] Header header_of(const MatrixUpdate& update);

/// How messages name an update before its header is known.
[[nodiscard]] std::string expected_name(const Expected& expected);
/// The header of the update that was expected. `who` becomes its name for further messages.
/// @throws DataError naming what was found and expected
void check_header(const Header& header, const Expected& expected, std::string& who);

/// Writes magic, version, all fields and the header's own checksum.
void write_header(const Header& header, std::span<std::byte, kHeaderBytes> bytes);

/// @param who  how error messages name the update before its ids can be trusted
/// @throws DataError unless magic, version, checksum and reserved bytes are as written
[[nodiscard]] Header read_header(std::span<const std::byte, kHeaderBytes> bytes, const char* who);

}  // namespace fedspallm::wire
