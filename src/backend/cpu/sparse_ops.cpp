// SPDX-License-Identifier: Apache-2.0
#include "../access.hpp"
#include "../checks.hpp"
#include "ops.hpp"

namespace fedspallm::backend::cpu {

namespace {

constexpr std::int64_t unit_size = 16384;  // a multiple of 64, so that units own whole words of bits
constexpr std::int64_t part_size = 2048;   // what is gathered in local buffers when a view is not contiguous

/// Copies elements [first, first + count) in row-major order, which may cross rows, to `to`.
template <class T>
void gather(Matrix<T> from, std::int64_t first, std::int64_t count, T* to) {
  while (count > 0) {
    const std::int64_t column = first % from.cols;
    const std::int64_t part = std::min(count, from.cols - column);
    std::copy_n(from.row(first / from.cols) + column, part, to);
    to += part;
    first += part;
    count -= part;
  }
}

template <class T>
void scatter(const T* from, std::int64_t first, std::int64_t count, Matrix<T> to) {
  while (count > 0) {
    const std::int64_t column = first % to.cols;
    const std::int64_t part = std::min(count, to.cols - column);
    std::copy_n(from, part, to.row(first / to.cols) + column);
    from += part;
    first += part;
    count -= part;
  }
}

/// `count` elements from `first` on as contiguous memory: the view's own, or `buffer` filled from it.
template <class T>
const T* elements(Matrix<T> from, std::int64_t first, std::int64_t count, T* buffer) {
  if (from.contiguous()) return from.data + first;
  gather(from, first, count, buffer);
  return buffer;
}

/// Turns counts of units into the place where each unit starts. @return the total
std::int64_t exclusive_sum(std::int64_t* counts, std::int64_t units) {
  std::int64_t total = 0;
  for (std::int64_t unit = 0; unit < units; ++unit) {
    const std::int64_t count = counts[unit];
    counts[unit] = total;
    total += count;
  }
  return total;
}

/// Calls body(first, count) for the parts of a unit.
template <class Body>
void for_parts(Range range, Body body) {
  for (std::int64_t first = range.first; first < range.last; first += part_size)
    body(first, std::min(part_size, range.last - first));
}

}  // namespace

std::int64_t CpuSparse::pack(View w, View mask, DType dtype, std::span<std::uint64_t> bits,
                             std::vector<std::byte>& values) {
  checks::pack(owner_, w, mask, bits);
  const auto weights = floats(w);
  const auto kept = bytes(mask);
  const Cut units{weights.size(), unit_size};
  const SparseKernels& kernels = engine_.kernels.sparse;
  auto* starts = engine_.shared.elements<std::int64_t>(units.count());
  engine_.run(units.count(), [&](std::int64_t unit, int) {
    std::uint8_t buffer[part_size];
    starts[unit] = 0;
    for_parts(units[unit], [&](std::int64_t first, std::int64_t count) {
      starts[unit] +=
          kernels.mask_to_bits(elements(kept, first, count, buffer), count, bits.data() + first / 64);
    });
  });
  const std::int64_t total = exclusive_sum(starts, units.count());
  const auto width = static_cast<std::int64_t>(size_of(dtype));
  values.resize(static_cast<std::size_t>(total * width));
  engine_.run(units.count(), [&](std::int64_t unit, int) {
    float buffer[part_size];
    std::uint16_t narrow[part_size];
    std::byte* out = values.data() + starts[unit] * width;
    for_parts(units[unit], [&](std::int64_t first, std::int64_t count) {
      const float* dense = elements(weights, first, count, buffer);
      const std::uint64_t* words = bits.data() + first / 64;
      if (dtype == DType::f32) {
        out += width * kernels.compress_f32(dense, words, count, out);
        return;
      }
      (dtype == DType::bf16 ? kernels.narrow_bf16 : kernels.narrow_f16)(dense, count, narrow);
      out += width * kernels.compress_16(narrow, words, count, out);
    });
  });
  return total;
}

void CpuSparse::unpack(std::span<const std::uint64_t> bits, std::span<const std::byte> values, DType dtype,
                       View w) {
  static_cast<void>(checks::unpack(owner_, bits, values, dtype, w));
  const auto weights = floats(w);
  const Cut units{weights.size(), unit_size};
  const SparseKernels& kernels = engine_.kernels.sparse;
  auto* starts = engine_.shared.elements<std::int64_t>(units.count());
  engine_.run(units.count(), [&](std::int64_t unit, int) {
    const Range range = units[unit];
    starts[unit] = kernels.count_bits(bits.data() + range.first / 64, (range.size() + 63) / 64);
  });
  static_cast<void>(exclusive_sum(starts, units.count()));
  const auto width = static_cast<std::int64_t>(size_of(dtype));
  engine_.run(units.count(), [&](std::int64_t unit, int) {
    float buffer[part_size];
    std::uint16_t narrow[part_size];
    const std::byte* in = values.data() + starts[unit] * width;
    for_parts(units[unit], [&](std::int64_t first, std::int64_t count) {
      const std::uint64_t* words = bits.data() + first / 64;
      float* dense = weights.contiguous() ? weights.data + first : buffer;
      if (dtype == DType::f32) {
        in += width * kernels.expand_f32(in, words, count, dense);
      } else {
        in += width * kernels.expand_16(in, words, count, narrow);
        (dtype == DType::bf16 ? kernels.widen_bf16 : kernels.widen_f16)(narrow, count, dense);
      }
      if (!weights.contiguous()) scatter(buffer, first, count, weights);
    });
  });
}

void CpuSparse::unpack_mask(std::span<const std::uint64_t> bits, View mask) {
  checks::unpack_mask(owner_, bits, mask);
  const auto result = bytes(mask);
  const Cut units{result.size(), unit_size};
  engine_.run(units.count(), [&](std::int64_t unit, int) {
    std::uint8_t buffer[part_size];
    for_parts(units[unit], [&](std::int64_t first, std::int64_t count) {
      std::uint8_t* to = result.contiguous() ? result.data + first : buffer;
      engine_.kernels.sparse.bits_to_mask(bits.data() + first / 64, count, to);
      if (!result.contiguous()) scatter(buffer, first, count, result);
    });
  });
}

}  // namespace fedspallm::backend::cpu
