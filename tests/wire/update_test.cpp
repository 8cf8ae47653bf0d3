// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/wire/update.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/wire/device.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "random_matrix.hpp"
#include <cstring>
#include <limits>
#include <numeric>
#include <string>

namespace fedspallm::wire {
namespace {

using test::random_packed;
using ::testing::AllOf;
using ::testing::HasSubstr;

MatrixUpdate make_update(std::int64_t rows, std::int64_t cols, double density, DType dtype,
                         bool with_diagonal) {
  MatrixUpdate update;
  update.unit = {.round = 2, .block = 7, .matrix = 3};
  update.client = 11;
  update.matrix = random_packed(5, rows, cols, density, dtype);
  if (with_diagonal) {
    update.hessian_diagonal.resize(static_cast<std::size_t>(cols));
    std::iota(update.hessian_diagonal.begin(), update.hessian_diagonal.end(), 0.25F);
  }
  update.report = {.error = 12.5,
                   .seconds = 0.125,
                   .kept_zeros = 0,
                   .damping_steps = 2,
                   .damping = 0.1F,
                   .dead_columns = cols > 0 ? 1 : 0};
  return update;
}

Expected expectation_of(const MatrixUpdate& update) {
  return {.unit = update.unit,
          .rows = update.matrix.rows,
          .cols = update.matrix.cols,
          .dtype = update.matrix.dtype,
          .with_diagonal = !update.hessian_diagonal.empty(),
          .client = update.client};
}

std::string message_of_refusal(std::span<const std::byte> bytes, const Expected& expected) {
  try {
    (void)decode(bytes, expected);
  } catch (const DataError& error) {
    return error.what();
  }
  return "accepted";
}

void expect_equal(const MatrixUpdate& left, const MatrixUpdate& right) {
  EXPECT_EQ(left.unit, right.unit);
  EXPECT_EQ(left.client, right.client);
  EXPECT_TRUE(left.matrix == right.matrix);
  EXPECT_EQ(left.hessian_diagonal, right.hessian_diagonal);
  EXPECT_TRUE(left.report == right.report);
}

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};

TEST(Update, DecodedEqualsEncodedForEveryShapeDensityAndType) {
  const std::pair<std::int64_t, std::int64_t> shapes[] = {{0, 0},  {0, 5},  {5, 0}, {1, 1},   {1, 63},
                                                          {1, 64}, {1, 65}, {3, 7}, {17, 33}, {64, 130}};
  for (const auto& [rows, cols] : shapes)
    for (const DType dtype : kTypes)
      for (const double density : {0.0, 0.3, 1.0})
        for (const bool with_diagonal : {false, true}) {
          if (cols == 0 && with_diagonal) continue;
          const MatrixUpdate update = make_update(rows, cols, density, dtype, with_diagonal);
          const auto bytes = encode(update);
          EXPECT_EQ(std::ssize(bytes), encoded_bytes(rows, cols, update.matrix.kept, dtype, with_diagonal));
          expect_equal(decode(bytes, expectation_of(update)), update);
        }
}

TEST(Update, HeaderIsLaidOutAsDocumentedLittleEndian) {
  const MatrixUpdate update = make_update(3, 7, 0.5, DType::bf16, true);
  const auto bytes = encode(update);
  const auto field = [&](std::size_t offset, std::size_t width) {
    std::uint64_t value = 0;
    for (std::size_t i = width; i-- > 0;)
      value = value << 8 | std::to_integer<std::uint64_t>(bytes[offset + i]);
    return value;
  };
  EXPECT_EQ(std::memcmp(bytes.data(), "FSPU", 4), 0);
  EXPECT_EQ(field(4, 4), kFormatVersion);
  EXPECT_EQ(field(8, 4), 2U);   // round
  EXPECT_EQ(field(12, 4), 7U);  // block
  EXPECT_EQ(field(16, 4), 3U);  // matrix
  EXPECT_EQ(field(20, 4), 11U);
  EXPECT_EQ(field(24, 8), 3U);
  EXPECT_EQ(field(32, 8), 7U);
  EXPECT_EQ(field(40, 8), static_cast<std::uint64_t>(update.matrix.kept));
  EXPECT_EQ(field(48, 1), 2U);
  EXPECT_EQ(field(49, 1), 1U);
  EXPECT_EQ(field(52, 4), 2U);
  EXPECT_EQ(field(56, 8), 0x4029000000000000U);  // 12.5
  EXPECT_EQ(field(64, 8), 0x3fc0000000000000U);  // 0.125
  EXPECT_EQ(field(80, 8), 1U);
  EXPECT_EQ(field(88, 4), 0x3dcccccdU);  // 0.1f
  EXPECT_EQ(field(96, 8), bytes.size() - kHeaderBytes);
  EXPECT_EQ(field(104, 8), checksum(std::span(bytes).subspan(kHeaderBytes)));
  EXPECT_EQ(field(120, 8), checksum(std::span(bytes).first(120)));
}

TEST(Update, EveryFlippedHeaderBitIsRefused) {
  const MatrixUpdate update = make_update(5, 13, 0.5, DType::f16, true);
  auto bytes = encode(update);
  for (std::size_t at = 0; at < kHeaderBytes; ++at)
    for (unsigned bit = 0; bit < 8; ++bit) {
      bytes[at] ^= std::byte{1} << bit;
      EXPECT_NE(message_of_refusal(bytes, expectation_of(update)), "accepted")
          << "byte " << at << " bit " << bit;
      bytes[at] ^= std::byte{1} << bit;
    }
  EXPECT_EQ(message_of_refusal(bytes, expectation_of(update)), "accepted");
}

TEST(Update, FlippedPayloadBitsAreRefused) {
  const MatrixUpdate update = make_update(40, 50, 0.5, DType::f32, true);
  auto bytes = encode(update);
  const RandomKey key{.seed = 1, .use = RandomUse::simulation};
  const std::uint64_t payload_bits = 8 * (bytes.size() - kHeaderBytes);
  for (std::uint64_t trial = 0; trial < 500; ++trial) {
    const std::uint64_t bit = random_below(key, trial, payload_bits);
    std::byte& target = bytes[kHeaderBytes + bit / 8];
    target ^= std::byte{1} << (bit % 8);
    EXPECT_THAT(message_of_refusal(bytes, expectation_of(update)), HasSubstr("damaged payload"))
        << "bit " << bit;
    target ^= std::byte{1} << (bit % 8);
  }
}

TEST(Update, EveryTruncationAndAnyExtensionIsRefused) {
  const MatrixUpdate update = make_update(4, 9, 0.5, DType::bf16, true);
  auto bytes = encode(update);
  for (std::size_t length = 0; length < bytes.size(); ++length)
    EXPECT_NE(message_of_refusal(std::span(bytes).first(length), expectation_of(update)), "accepted")
        << length;
  bytes.push_back(std::byte{0});
  EXPECT_THAT(message_of_refusal(bytes, expectation_of(update)), HasSubstr("bytes, expected"));
}

TEST(Update, RandomBytesAreRefused) {
  const MatrixUpdate update = make_update(4, 9, 0.5, DType::bf16, true);
  const RandomKey key{.seed = 2, .use = RandomUse::simulation};
  for (std::uint64_t trial = 0; trial < 200; ++trial) {
    std::vector<std::byte> bytes(random_below(key, 1000 * trial, 400));
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::byte>(random_below(key, 1000 * trial + 1 + i, 256));
    EXPECT_NE(message_of_refusal(bytes, expectation_of(update)), "accepted");
  }
}

TEST(Update, RefusalNamesClientUnitFoundAndExpected) {
  const MatrixUpdate update = make_update(5, 13, 0.5, DType::f16, false);
  const auto bytes = encode(update);
  const auto refusal = [&](auto change) {
    Expected expected = expectation_of(update);
    change(expected);
    return message_of_refusal(bytes, expected);
  };
  EXPECT_THAT(refusal([](Expected& e) { e.client = 4; }),
              AllOf(HasSubstr("client 11"), HasSubstr("expected client 4")));
  EXPECT_THAT(refusal([](Expected& e) { e.unit.block = 8; }),
              AllOf(HasSubstr("client 11"), HasSubstr("round 2, block 7, matrix 3"),
                    HasSubstr("expected round 2, block 8, matrix 3")));
  EXPECT_NE(refusal([](Expected& e) { e.unit.round = 1; }), "accepted");
  EXPECT_NE(refusal([](Expected& e) { e.unit.matrix = 2; }), "accepted");
  EXPECT_THAT(
      refusal([](Expected& e) { std::swap(e.rows, e.cols); }),
      AllOf(HasSubstr("client 11"), HasSubstr("block 7"), HasSubstr("5 x 13"), HasSubstr("expected 13 x 5")));
  EXPECT_THAT(refusal([](Expected& e) { e.dtype = DType::bf16; }), HasSubstr("expected 2 (bfloat16)"));
  EXPECT_THAT(refusal([](Expected& e) { e.with_diagonal = true; }), HasSubstr("diagonal flag 0, expected 1"));
  EXPECT_EQ(refusal([](Expected& e) { e.client.reset(); }), "accepted");
}

TEST(Update, AnotherFormatVersionIsRefusedByNumber) {
  const MatrixUpdate update = make_update(1, 1, 1, DType::f32, false);
  auto bytes = encode(update);
  bytes[4] = std::byte{9};
  EXPECT_THAT(message_of_refusal(bytes, expectation_of(update)), HasSubstr("format version 9, expected 1"));
}

/// Valid checksums around contents that no encoder of ours would send.
class HostileUpdate : public ::testing::Test {
 protected:
  HostileUpdate() : update_(make_update(5, 13, 0.5, DType::f32, true)), bytes_(encode(update_)) {}

  /// Writes `width` bytes of `value` at `offset` and makes both checksums right again.
  std::string refusal_after(std::size_t offset, std::uint64_t value, std::size_t width) {
    std::vector<std::byte> bytes = bytes_;
    put(bytes, offset, value, width);
    put(bytes, 104, checksum(std::span(bytes).subspan(kHeaderBytes)), 8);
    put(bytes, 120, checksum(std::span(bytes).first(120)), 8);
    return message_of_refusal(bytes, expectation_of(update_));
  }
  static void put(std::vector<std::byte>& bytes, std::size_t offset, std::uint64_t value, std::size_t width) {
    for (std::size_t i = 0; i < width; ++i)
      bytes[offset + i] = static_cast<std::byte>((value >> (8 * i)) & 0xff);
  }
  static constexpr std::size_t kMask = kHeaderBytes, kValues = kHeaderBytes + 9;

  MatrixUpdate update_;
  std::vector<std::byte> bytes_;
};

TEST_F(HostileUpdate, CountsThatDoNotFitAreRefusedBeforeAllocation) {
  EXPECT_EQ(refusal_after(0, 'F', 1), "accepted");  // the helper itself changes nothing
  EXPECT_THAT(refusal_after(40, ~std::uint64_t{0}, 8), HasSubstr("-1 kept weights, expected 0 to 65"));
  EXPECT_THAT(refusal_after(40, std::uint64_t{1} << 62, 8), HasSubstr("kept weights"));
  EXPECT_THAT(refusal_after(40, 66, 8), HasSubstr("66 kept weights"));
  EXPECT_THAT(refusal_after(24, std::uint64_t{1} << 61, 8), HasSubstr("expected 5 x 13"));
  EXPECT_THAT(refusal_after(96, 1, 8), HasSubstr("payload of 1 bytes"));
  EXPECT_THAT(refusal_after(72, 1000, 8), HasSubstr("1000 kept zeros"));
  EXPECT_THAT(refusal_after(80, 14, 8), HasSubstr("14 dead columns"));
  EXPECT_THAT(refusal_after(52, 0xffffffff, 4), HasSubstr("-1 damping steps"));
  EXPECT_THAT(refusal_after(56, 0x7ff0000000000000, 8), HasSubstr("report with error inf"));
  EXPECT_THAT(refusal_after(50, 1, 2), HasSubstr("reserved"));
  EXPECT_THAT(refusal_after(48, 7, 1), HasSubstr("element type 7"));
}

TEST_F(HostileUpdate, MaskThatDisagreesWithItsCountIsRefused) {
  const auto first = std::to_integer<std::uint64_t>(bytes_[kMask]);
  EXPECT_THAT(refusal_after(kMask, first ^ 1, 1), HasSubstr("set mask bits, expected"));
  EXPECT_THAT(refusal_after(kMask + 8, 0x80, 1), HasSubstr("mask bits beyond the 65 weights"));
}

TEST_F(HostileUpdate, ValuesThatAreNotFiniteAreRefused) {
  EXPECT_THAT(refusal_after(kValues + 4, 0x7f800000, 4), HasSubstr("a kept value is inf"));
  EXPECT_THAT(refusal_after(kValues + 4, 0xffc00000, 4), HasSubstr("a kept value is nan"));
  const std::size_t diagonal = bytes_.size() - 13 * 4;
  EXPECT_THAT(refusal_after(diagonal + 8, 0x7fc00000, 4), HasSubstr("diag(H) of column 2 is nan"));
  EXPECT_THAT(refusal_after(diagonal + 8, 0xbf800000, 4), HasSubstr("diag(H) of column 2 is -1"));
}

TEST(Update, ContentsThatDisagreeAreRefused) {
  const auto refused = [](auto change) {
    MatrixUpdate update = make_update(5, 13, 0.5, DType::f32, true);
    change(update);
    EXPECT_THROW((void)encode(update), LogicError);
    EXPECT_THROW((void)device_image(update), LogicError);
  };
  refused([](MatrixUpdate& u) { u.matrix.kept += 1; });
  refused([](MatrixUpdate& u) { u.matrix.rows = -5; });
  refused([](MatrixUpdate& u) { u.matrix.bits.pop_back(); });
  refused([](MatrixUpdate& u) { u.matrix.values.pop_back(); });
  refused([](MatrixUpdate& u) { u.matrix.bits[0] ^= 1; });
  refused([](MatrixUpdate& u) { u.hessian_diagonal.pop_back(); });
  refused([](MatrixUpdate& u) {  // a padding bit instead of a used one
    const bool first = (u.matrix.bits[0] & 1) != 0;
    u.matrix.bits[0] &= ~std::uint64_t{1};
    u.matrix.bits[1] |= std::uint64_t{first} << 63 | std::uint64_t{!first} << 62;
    u.matrix.kept += first ? 0 : 1;
    u.matrix.values.resize(static_cast<std::size_t>(u.matrix.kept) * 4);
  });
  EXPECT_THROW((void)decode({}, Expected{.rows = -1}), LogicError);
}

TEST(DeviceUpdate, LayoutHasRoomForEachPartAtItsAlignment) {
  for (const std::int64_t kept : {0, 1, 64, 65})
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (const bool with_diagonal : {false, true}) {
        const DeviceLayout layout = device_layout(5, 13, kept, dtype, with_diagonal);
        EXPECT_GE(layout.bits, static_cast<std::int64_t>(kHeaderBytes));
        EXPECT_GE(layout.values, layout.bits + 2 * 8);  // 65 mask bits in words
        EXPECT_GE(layout.diagonal, layout.values + kept * static_cast<std::int64_t>(size_of(dtype)));
        EXPECT_GE(layout.bytes, layout.diagonal + (with_diagonal ? 13 * 4 : 0));
        for (const std::int64_t place : {layout.bits, layout.values, layout.diagonal})
          EXPECT_EQ(place % static_cast<std::int64_t>(sizeof(std::uint64_t)), 0);
      }
}

TEST(DeviceUpdate, LayoutOfWhatCannotBeIsRefused) {
  EXPECT_THROW((void)device_layout(-1, 1, 0, DType::f32, false), LogicError);
  EXPECT_THROW((void)device_layout(5, 13, -1, DType::f32, false), LogicError);
  EXPECT_THROW((void)device_layout(5, 13, 66, DType::f32, false), LogicError);
}

TEST(Update, SizeOfABlockIsWithinTwoPercentOfMaskAndValues) {
  // SmolLM2-135M: q k v o gate up down; diagonals travel with the first matrix of each input group.
  struct Shape {
    std::int64_t rows, cols;
    bool first_of_group;
  };
  const Shape block[] = {{576, 576, true},  {192, 576, false},  {192, 576, false}, {576, 576, true},
                         {1536, 576, true}, {1536, 576, false}, {576, 1536, true}};
  double sent = 0, needed = 0;
  for (const Shape& shape : block) {
    const std::int64_t size = shape.rows * shape.cols, kept = size / 2;
    const auto total =
        static_cast<double>(encoded_bytes(shape.rows, shape.cols, kept, DType::bf16, shape.first_of_group));
    const double limit = static_cast<double>(size) / 8 + 2.0 * static_cast<double>(kept);
    if (!shape.first_of_group) {
      EXPECT_LE(total, 1.02 * limit) << shape.rows << " x " << shape.cols;
    }
    sent += total;
    needed += limit;
  }
  EXPECT_LE(sent, 1.02 * needed);
}

}  // namespace
}  // namespace fedspallm::wire
