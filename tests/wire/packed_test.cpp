// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/wire/update.hpp"

#include <gtest/gtest.h>

#include "random_matrix.hpp"
#include "wire/kernels.hpp"
#include <cmath>
#include <cstring>
#include <limits>

namespace fedspallm::wire {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};
constexpr std::int64_t kSizes[] = {0, 1, 7, 63, 64, 65, 127, 128, 200, 1000, 4099};

TEST(Packed, PackKeepsTheMaskedValuesInRowMajorOrder) {
  for (const DType dtype : kTypes)
    for (const std::int64_t size : kSizes) {
      const test::DenseMatrix dense = test::random_dense(1, size, 0.4, dtype);
      const PackedMatrix matrix = pack(1, size, dtype, dense.values, dense.kept);
      ASSERT_EQ(std::ssize(matrix.bits), mask_words(size));
      std::int64_t next = 0;
      for (std::int64_t i = 0; i < size; ++i) {
        const auto n = static_cast<std::size_t>(i);
        ASSERT_EQ((matrix.bits[n / 64] >> (n % 64)) & 1U, dense.kept[n]);
        if (dense.kept[n] == 0) continue;
        float value = 0;
        widen(dtype, matrix.values.data() + static_cast<std::size_t>(next) * size_of(dtype), &value, 1);
        ASSERT_EQ(value, dense.values[n]);
        ++next;
      }
      EXPECT_EQ(matrix.kept, next);
      EXPECT_EQ(matrix.dropped(), size - next);
    }
}

TEST(Packed, PackNarrowsToNearest) {
  const float values[] = {1.0F + 0x1p-9F, 1.0F + 3 * 0x1p-9F, -1.0F};
  const std::uint8_t kept[] = {1, 1, 1};
  const PackedMatrix matrix = pack(3, 1, DType::bf16, values, kept);
  std::vector<float> dense(3);
  unpack(matrix, dense);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(dense[i], round_to(DType::bf16, values[i]));
}

TEST(Packed, UnpackGivesZerosWhereDroppedInEveryKernelSet) {
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (!supported(isa)) continue;
    for (const DType dtype : kTypes)
      for (const std::int64_t size : kSizes)
        for (const double density : {0.0, 0.5, 0.97, 1.0}) {
          const test::DenseMatrix dense = test::random_dense(2, size, density, dtype);
          const PackedMatrix matrix = pack(1, size, dtype, dense.values, dense.kept);
          std::vector<float> floats(static_cast<std::size_t>(size), -7);
          const Kernels& kernels = kernels_for(isa);
          const auto* values = reinterpret_cast<const unsigned char*>(matrix.values.data());
          kernels.unpack_floats[static_cast<int>(dtype)](
              matrix.bits.data(), values, matrix.kept, reinterpret_cast<unsigned char*>(floats.data()), size);
          std::vector<unsigned char> stored(static_cast<std::size_t>(size) * size_of(dtype), 0xee);
          kernels.unpack_stored[static_cast<int>(dtype)](matrix.bits.data(), values, matrix.kept,
                                                         stored.data(), size);
          std::vector<float> widened(static_cast<std::size_t>(size));
          widen(dtype, stored.data(), widened.data(), widened.size());
          for (std::size_t i = 0; i < floats.size(); ++i) {
            const float wanted = dense.kept[i] != 0 ? dense.values[i] : 0.0F;
            ASSERT_EQ(floats[i], wanted)
                << name_of(isa) << " " << name_of(dtype) << " size " << size << " at " << i;
            ASSERT_EQ(widened[i], wanted);
            ASSERT_EQ(std::signbit(widened[i]), std::signbit(wanted));
          }
        }
  }
}

TEST(Packed, UnpackStoredKeepsEveryBitPattern) {
  std::vector<std::byte> patterns(2 * 65536);
  for (std::size_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    std::memcpy(patterns.data() + 2 * i, &bits, 2);
  }
  PackedMatrix matrix{.rows = 256,
                      .cols = 256,
                      .dtype = DType::f16,
                      .kept = 65536,
                      .bits = std::vector<std::uint64_t>(1024, ~std::uint64_t{0}),
                      .values = patterns};
  std::vector<std::byte> dense(patterns.size());
  unpack_stored(matrix, dense);
  EXPECT_EQ(dense, patterns);
}

TEST(Packed, LargestMagnitudeAndKeptZerosAgreeWithAPlainLoopInEveryKernelSet) {
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (!supported(isa)) continue;
    for (const DType dtype : kTypes)
      for (const std::int64_t size : kSizes) {
        std::vector<float> values = test::random_dense(3, size, 1, dtype).values;
        for (std::size_t i = 0; i < values.size(); i += 5) values[i] = i % 2 == 0 ? 0.0F : -0.0F;
        std::vector<std::byte> stored(values.size() * size_of(dtype));
        narrow(dtype, values.data(), stored.data(), values.size());
        float largest = 0;
        std::int64_t zeros = 0;
        for (const float value : values) {
          largest = std::max(largest, std::abs(value));
          zeros += value == 0 ? 1 : 0;
        }
        const ValueScan scan = kernels_for(isa).scan_values[static_cast<int>(dtype)](
            reinterpret_cast<const unsigned char*>(stored.data()), size);
        float found = 0;
        std::memcpy(&found, &scan.largest_bits, 4);
        if (dtype == DType::bf16) found = bf16_to_float(static_cast<std::uint16_t>(scan.largest_bits));
        if (dtype == DType::f16) found = f16_to_float(static_cast<std::uint16_t>(scan.largest_bits));
        EXPECT_EQ(found, largest);
        EXPECT_EQ(scan.zeros, zeros);
      }
  }
}

TEST(Packed, LargestMagnitudeIsZeroWhenNothingIsKept) {
  const test::DenseMatrix dense = test::random_dense(4, 100, 0, DType::bf16);
  const PackedMatrix matrix = pack(10, 10, DType::bf16, dense.values, dense.kept);
  EXPECT_EQ(largest_magnitude(matrix), 0.0F);
  EXPECT_EQ(count_kept_zeros(matrix), 0);
}

TEST(Packed, ManyZerosAreCountedWithoutOverflow) {
  for (const DType dtype : kTypes) {
    const std::vector<float> zeros(200000, 0.0F);
    const std::vector<std::uint8_t> kept(zeros.size(), 1);
    EXPECT_EQ(count_kept_zeros(pack(400, 500, dtype, zeros, kept)), 200000);
  }
}

TEST(Packed, BrokenPreconditionsAreNamed) {
  PackedMatrix matrix = test::random_packed(1, 3, 5, 0.5, DType::f32);
  std::vector<float> short_row(14);
  EXPECT_THROW(unpack(matrix, short_row), LogicError);
  std::vector<std::byte> short_bytes(59);
  EXPECT_THROW(unpack_stored(matrix, short_bytes), LogicError);
  std::vector<float> dense(15);
  matrix.bits[0] ^= 1;  // one bit more or less than values
  EXPECT_THROW(unpack(matrix, dense), LogicError);
  matrix.values.pop_back();
  EXPECT_THROW((void)largest_magnitude(matrix), LogicError);
  const std::vector<std::uint8_t> flags(14);
  EXPECT_THROW((void)pack(3, 5, DType::f32, dense, flags), LogicError);
  EXPECT_THROW((void)pack(-3, -5, DType::f32, dense, flags), LogicError);
  std::int64_t value = 0;
  const PackedMatrix longer = test::random_packed(1, 3, 50, 0.5, DType::f32);
  EXPECT_THROW((void)slice(longer, 1, 100, value), LogicError) << "in the middle of a mask word";
  EXPECT_THROW((void)slice(longer, 64, 151, value), LogicError);
  EXPECT_THROW((void)slice(longer, 128, 64, value), LogicError);
  EXPECT_THROW((void)slice(longer, -64, 64, value), LogicError);
  EXPECT_EQ(slice(longer, 150, 150, value).kept, 0);
}

}  // namespace
}  // namespace fedspallm::wire
