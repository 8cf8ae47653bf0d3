// SPDX-License-Identifier: Apache-2.0
// Purpose: an update as it lies in the memory of a GPU and travels from there (transport nccl): the header of
// update.hpp without a payload checksum, whole 64-bit mask words, values, diagonal, each part aligned.
// Non-goals: reaching that memory (comm/device.hpp).
#pragma once

#include "fedspallm/wire/update.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace fedspallm::wire {

/// Where the parts of an update begin, in bytes; the header is at 0. All are multiples of kDeviceAlignment.
struct DeviceLayout {
  std::int64_t bits = 0;
  std::int64_t values = 0;
  std::int64_t diagonal = 0;
  std::int64_t bytes = 0;  // in all
};
constexpr std::int64_t kDeviceAlignment = 256;
/// @pre rows, cols >= 0, 0 <= kept <= rows * cols
[[nodiscard]] DeviceLayout device_layout(std::int64_t rows, std::int64_t cols, std::int64_t kept, DType dtype,
                                         bool with_diagonal);

/// Mask bits and values of an update that stayed on the device where they were made, laid out as
/// device_layout() says; header and diagonal are still to be written.
struct DeviceUpdate {
  std::shared_ptr<std::byte> memory;  // of the device: no host code may look into it
  float largest = 0;                  // |kept value|
};

/// An update in host memory as a device would hold it, header included. @pre as encode()
[[nodiscard]] std::vector<std::byte> device_image(const MatrixUpdate& update);
/// The header alone. @pre kHeaderBytes
void write_device_header(const MatrixUpdate& update, std::span<std::byte, kHeaderBytes> bytes);

/// Checks the header of an update that came to a device. @param kept  weights that were announced
/// @throws DataError naming client, unit, what was found and expected
void check_device_header(std::span<const std::byte, kHeaderBytes> bytes, const Expected& expected,
                         std::int64_t kept);

}  // namespace fedspallm::wire
