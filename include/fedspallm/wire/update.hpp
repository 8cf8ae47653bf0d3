// SPDX-License-Identifier: Apache-2.0
// Purpose: what a client sends of one pruned matrix, in memory and as bytes. The mask is explicit, never
// derived from zeros (rulings.md 4). At 50 % and 16-bit values that is 9 bits per weight. Non-goals:
// compression (a random mask at 50 % is at its entropy), transport.
#pragma once

#include "fedspallm/base/dtype.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::wire {

/// A rows x cols matrix of which only the set bits of `bits` are kept.
struct PackedMatrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  DType dtype = DType::f32;
  std::int64_t kept = 0;            // number of set bits
  std::vector<std::uint64_t> bits;  // row-major index i = bit i % 64 of word i / 64; padding bits zero
  std::vector<std::byte> values;    // kept * size_of(dtype) bytes, row-major order
  [[nodiscard]] std::int64_t size() const { return rows * cols; }
  [[nodiscard]] std::int64_t dropped() const { return size() - kept; }
  friend bool operator==(const PackedMatrix&, const PackedMatrix&) = default;
};

/// Which matrix of which run an update or a merged matrix is.
struct UnitId {
  std::uint32_t round = 0;   // from 1
  std::uint32_t block = 0;   // decoder block
  std::uint32_t matrix = 0;  // index within the block, in the architecture's order
  friend bool operator==(const UnitId&, const UnitId&) = default;
};

/// What a client says of its own work on one matrix; travels with the update and ends in the run file.
struct MatrixReport {
  double error =
      0;  // sum of squared scaled errors of the sweep (SparseGPT), else sum of dropped scores squared
  double seconds = 0;              // this client's time for this matrix (shares of shared work included)
  std::int64_t kept_zeros = 0;     // kept weights whose value is 0
  std::int32_t damping_steps = 0;  // how often damping was raised by 10
  float damping = 0;               // the one that worked
  std::int64_t dead_columns = 0;
  friend bool operator==(const MatrixReport&, const MatrixReport&) = default;
};

struct DeviceUpdate;  // device.hpp

struct MatrixUpdate {
  UnitId unit;
  std::uint32_t client = 0;  // index in the config
  PackedMatrix matrix;
  /// diag(H) (undamped, cols values) where the matrix is the first of its input group and the tie rule needs
  /// it, else empty.
  std::vector<float> hessian_diagonal;
  MatrixReport report;
  /// Where mask bits and values are when they stayed on a device: `matrix` then has shape and count alone.
  std::shared_ptr<const DeviceUpdate> device = nullptr;
};

constexpr std::uint32_t kFormatVersion = 1;
constexpr std::size_t kHeaderBytes = 128;

/// Bytes of an encoded update; `--dry-run` forecasts with it. Exact, for any content.
[[nodiscard]] std::int64_t encoded_bytes(std::int64_t rows, std::int64_t cols, std::int64_t kept, DType dtype,
                                         bool with_diagonal);

/// Layout: 128-byte header (magic "FSPU", version, ids, shape, counts, dtype, report, xxh3 of header and of
/// payload; field by field in src/wire/header.hpp), mask bits as ceil(size/8) bytes, values, diagonal as f32.
/// Little-endian.
/// @pre the counts of `update` agree with its contents: ceil(size/64) words, `kept` set bits, none in the
/// padding,
///      kept * size_of(dtype) value bytes, a diagonal of 0 or cols values
[[nodiscard]] std::vector<std::byte> encode(const MatrixUpdate& update);

/// What the receiver knows beforehand of an update it accepts.
struct Expected {
  UnitId unit = {};
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  DType dtype = DType::f32;
  bool with_diagonal = false;
  std::optional<std::uint32_t> client = std::nullopt;  // where the receiver knows who must have sent it
};

/// Checks everything before use: magic, version, checksums, sizes before allocation, ids and shape against
/// `expected`, mask against count, padding bits, finite values, a diagonal >= 0, a report without negative
/// counts. @throws DataError naming client, unit, what was found and expected.
[[nodiscard]] MatrixUpdate decode(std::span<const std::byte> bytes, const Expected& expected);

/// Number of 64-bit words that the mask of a matrix of `size` weights takes.
[[nodiscard]] constexpr std::int64_t mask_words(std::int64_t size) {
  return size / 64 + (size % 64 != 0 ? 1 : 0);
}

/// Number of set bits.
[[nodiscard]] std::int64_t count_mask_bits(std::span<const std::uint64_t> words);

/// The packed form of a dense row-major matrix; values are narrowed to `dtype` (nearest, ties to even).
/// @param kept  1 = kept, 0 = dropped, as a backend's u8 mask holds it
/// @pre dense.size() == kept.size() == rows * cols
[[nodiscard]] PackedMatrix pack(std::int64_t rows, std::int64_t cols, DType dtype,
                                std::span<const float> dense, std::span<const std::uint8_t> kept);

/// Largest |value| of the kept weights, 0 if none; widened to float.
[[nodiscard]] float largest_magnitude(const PackedMatrix& matrix);
/// Number of kept weights whose value is +-0.
[[nodiscard]] std::int64_t count_kept_zeros(const PackedMatrix& matrix);
/// Dense row-major floats, zeros where dropped. @pre destination.size() == matrix.size()
void unpack(const PackedMatrix& matrix, std::span<float> destination);
/// Dense row-major elements of matrix.dtype, +0 where dropped. @pre destination.size() == size *
/// size_of(dtype)
void unpack_stored(const PackedMatrix& matrix, std::span<std::byte> destination);

/// The part of `matrix` with row-major indices [begin, end), as a column of end - begin rows. `value` counts
/// the kept weights before `begin` and is moved on to those before `end`.
/// @pre begin is a multiple of 64 or equal to end; mask and values agree
[[nodiscard]] PackedMatrix slice(const PackedMatrix& matrix, std::int64_t begin, std::int64_t end,
                                 std::int64_t& value);

}  // namespace fedspallm::wire
