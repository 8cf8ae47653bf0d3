// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/wire/update.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"

#include "header.hpp"
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace fedspallm::wire {

// Payloads are moved as blocks of memory; a big-endian machine would need a swap here.
static_assert(std::endian::native == std::endian::little,
              "the update codec is written for little-endian machines");

namespace {

std::int64_t mask_bytes(std::int64_t size) {
  return size / 8 + (size % 8 != 0 ? 1 : 0);
}

/// The bytes of `vector` seen as memory.
template <class Element>
std::span<std::byte> memory_of(std::vector<Element>& vector) {
  return std::as_writable_bytes(std::span(vector));
}

void copy_bytes(std::span<const std::byte> from, std::span<std::byte> to) {
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}

bool padding_is_zero(const PackedMatrix& matrix) {
  const auto used = static_cast<unsigned>(matrix.size() % 64);
  return used == 0 || (matrix.bits.back() >> used) == 0;
}

}  // namespace

void require_consistent(const MatrixUpdate& update) {
  const PackedMatrix& matrix = update.matrix;
  require(update.device == nullptr, "update: it is in host memory");
  require(matrix.rows >= 0 && matrix.cols >= 0, "update: rows, cols >= 0");
  require(std::ssize(matrix.bits) == mask_words(matrix.size()),
          "update: one mask bit per weight, in 64-bit words");
  require(std::ssize(matrix.values) == matrix.kept * static_cast<std::int64_t>(size_of(matrix.dtype)),
          "update: one value per kept weight");
  require(count_mask_bits(matrix.bits) == matrix.kept, "update: as many set mask bits as kept weights");
  require(padding_is_zero(matrix), "update: padding bits of the mask are zero");
  require(update.hessian_diagonal.empty() || std::ssize(update.hessian_diagonal) == matrix.cols,
          "update: a diagonal of 0 or cols values");
}

namespace {

/// The checks of decode(), each with the name of the update in front of its message.
class Decoder {
 public:
  Decoder(std::span<const std::byte> bytes, const Expected& expected) : bytes_(bytes), expected_(expected) {
    require(expected.rows >= 0 && expected.cols >= 0, "decode: expected rows, cols >= 0");
    who_ = expected_name(expected);
  }

  MatrixUpdate run() {
    check_that(bytes_.size() >= kHeaderBytes, "{} bytes, expected at least the {} of the header",
               bytes_.size(), kHeaderBytes);
    header_ = read_header(bytes_.first<kHeaderBytes>(), who_.c_str());
    check_header(header_, expected_, who_);
    check_sizes();
    const auto payload = bytes_.subspan(kHeaderBytes);
    const std::uint64_t found = checksum(payload);
    check_that(found == header_.payload_checksum, "damaged payload: checksum {:016x}, expected {:016x}",
               found, header_.payload_checksum);
    MatrixUpdate update = copy(payload);
    check_content(update);
    return update;
  }

 private:
  template <class... Args>
  void check_that(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition)
      throw DataError(fmt::format("{}: {}", who_, fmt::format(format, std::forward<Args>(args)...)));
  }

  void check_sizes() const {
    const std::int64_t total =
        encoded_bytes(header_.rows, header_.cols, header_.kept, expected_.dtype, expected_.with_diagonal);
    check_that(std::ssize(bytes_) == total, "{} bytes, expected {}", bytes_.size(), total);
    check_that(header_.payload_bytes == bytes_.size() - kHeaderBytes, "payload of {} bytes, expected {}",
               header_.payload_bytes, bytes_.size() - kHeaderBytes);
  }

  MatrixUpdate copy(std::span<const std::byte> payload) const {
    MatrixUpdate update;
    update.unit = header_.unit;
    update.client = header_.client;
    update.report = header_.report;
    PackedMatrix& matrix = update.matrix;
    matrix.rows = header_.rows;
    matrix.cols = header_.cols;
    matrix.dtype = expected_.dtype;
    matrix.kept = header_.kept;
    const auto mask_size = static_cast<std::size_t>(mask_bytes(matrix.size()));
    const std::size_t value_size = static_cast<std::size_t>(matrix.kept) * size_of(matrix.dtype);
    matrix.bits.assign(static_cast<std::size_t>(mask_words(matrix.size())), 0);
    copy_bytes(payload.first(mask_size), memory_of(matrix.bits));
    const auto values = payload.subspan(mask_size, value_size);
    matrix.values.assign(values.begin(), values.end());
    if (expected_.with_diagonal) {
      update.hessian_diagonal.resize(static_cast<std::size_t>(matrix.cols));
      copy_bytes(payload.subspan(mask_size + value_size), memory_of(update.hessian_diagonal));
    }
    return update;
  }

  void check_content(const MatrixUpdate& update) const {
    check_that(padding_is_zero(update.matrix), "mask bits beyond the {} weights are set",
               update.matrix.size());
    const std::int64_t set = count_mask_bits(update.matrix.bits);
    check_that(set == update.matrix.kept, "{} set mask bits, expected {}", set, update.matrix.kept);
    const float largest = largest_magnitude(update.matrix);
    check_that(std::isfinite(largest), "a kept value is {}, expected finite values", largest);
    for (std::size_t column = 0; column < update.hessian_diagonal.size(); ++column) {
      const float value = update.hessian_diagonal[column];
      check_that(std::isfinite(value) && value >= 0,
                 "diag(H) of column {} is {}, expected a finite value >= 0", column, value);
    }
  }

  std::span<const std::byte> bytes_;
  const Expected& expected_;
  std::string who_;
  Header header_;
};

}  // namespace

std::int64_t encoded_bytes(std::int64_t rows, std::int64_t cols, std::int64_t kept, DType dtype,
                           bool with_diagonal) {
  return static_cast<std::int64_t>(kHeaderBytes) + mask_bytes(rows * cols) +
         kept * static_cast<std::int64_t>(size_of(dtype)) +
         (with_diagonal ? cols * static_cast<std::int64_t>(sizeof(float)) : 0);
}

std::vector<std::byte> encode(const MatrixUpdate& update) {
  require_consistent(update);
  const PackedMatrix& matrix = update.matrix;
  const bool with_diagonal = !update.hessian_diagonal.empty();
  std::vector<std::byte> bytes;  // appended to: zeros before the contents would be one more pass
  bytes.reserve(static_cast<std::size_t>(
      encoded_bytes(matrix.rows, matrix.cols, matrix.kept, matrix.dtype, with_diagonal)));
  const auto append = [&bytes](std::span<const std::byte> part) {
    bytes.insert(bytes.end(), part.begin(), part.end());
  };
  bytes.resize(kHeaderBytes);
  append(std::as_bytes(std::span(matrix.bits)).first(static_cast<std::size_t>(mask_bytes(matrix.size()))));
  append(matrix.values);
  append(std::as_bytes(std::span(update.hessian_diagonal)));
  const auto payload = std::span(bytes).subspan(kHeaderBytes);

  Header header = header_of(update);
  header.payload_bytes = payload.size();
  header.payload_checksum = checksum(payload);
  write_header(header, std::span(bytes).first<kHeaderBytes>());
  return bytes;
}

MatrixUpdate decode(std::span<const std::byte> bytes, const Expected& expected) {
  return Decoder(bytes, expected).run();
}

}  // namespace fedspallm::wire
