// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/wire/device.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/rounding.hpp"

#include "header.hpp"
#include <cstring>

namespace fedspallm::wire {

namespace {

std::int64_t aligned(std::int64_t bytes) {
  return round_up(bytes, kDeviceAlignment);
}

void put(std::vector<std::byte>& image, std::int64_t place, std::span<const std::byte> part) {
  if (!part.empty()) std::memcpy(image.data() + place, part.data(), part.size());
}

}  // namespace

DeviceLayout device_layout(std::int64_t rows, std::int64_t cols, std::int64_t kept, DType dtype,
                           bool with_diagonal) {
  require(rows >= 0 && cols >= 0 && kept >= 0 && kept <= rows * cols,
          "device_layout: rows, cols >= 0, 0 <= kept <= rows * cols");
  DeviceLayout layout;
  layout.bits = aligned(static_cast<std::int64_t>(kHeaderBytes));
  layout.values =
      layout.bits + aligned(mask_words(rows * cols) * static_cast<std::int64_t>(sizeof(std::uint64_t)));
  layout.diagonal = layout.values + aligned(kept * static_cast<std::int64_t>(size_of(dtype)));
  layout.bytes =
      layout.diagonal + (with_diagonal ? aligned(cols * static_cast<std::int64_t>(sizeof(float))) : 0);
  return layout;
}

void write_device_header(const MatrixUpdate& update, std::span<std::byte, kHeaderBytes> bytes) {
  const PackedMatrix& matrix = update.matrix;
  const DeviceLayout layout =
      device_layout(matrix.rows, matrix.cols, matrix.kept, matrix.dtype, !update.hessian_diagonal.empty());
  Header header = header_of(update);
  header.payload_bytes = static_cast<std::uint64_t>(layout.bytes) - kHeaderBytes;
  write_header(header, bytes);
}

std::vector<std::byte> device_image(const MatrixUpdate& update) {
  require_consistent(update);
  const PackedMatrix& matrix = update.matrix;
  const DeviceLayout layout =
      device_layout(matrix.rows, matrix.cols, matrix.kept, matrix.dtype, !update.hessian_diagonal.empty());
  std::vector<std::byte> image(static_cast<std::size_t>(layout.bytes));
  write_device_header(update, std::span(image).first<kHeaderBytes>());
  put(image, layout.bits, std::as_bytes(std::span(matrix.bits)));
  put(image, layout.values, matrix.values);
  put(image, layout.diagonal, std::as_bytes(std::span(update.hessian_diagonal)));
  return image;
}

void check_device_header(std::span<const std::byte, kHeaderBytes> bytes, const Expected& expected,
                         std::int64_t kept) {
  std::string who = expected_name(expected);
  const Header header = read_header(bytes, who.c_str());
  check_header(header, expected, who);
  check<DataError>(header.kept == kept,
                   fmt::format("{}: it keeps {} weights where {} were announced", who, header.kept, kept));
  const DeviceLayout layout =
      device_layout(expected.rows, expected.cols, kept, expected.dtype, expected.with_diagonal);
  const auto payload = static_cast<std::uint64_t>(layout.bytes) - kHeaderBytes;
  check<DataError>(header.payload_bytes == payload,
                   fmt::format("{}: payload of {} bytes, expected {}", who, header.payload_bytes, payload));
}

}  // namespace fedspallm::wire
