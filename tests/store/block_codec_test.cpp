// SPDX-License-Identifier: Apache-2.0
// encode_block and decode_block: what travels comes back; damage never gets through.
#include "fedspallm/base/hash.hpp"

#include "store_support.hpp"
#include <cstring>

namespace fedspallm::store::test {
namespace {

BlockRecord block_of(std::int64_t rows, std::int64_t cols, DType dtype, Dropped dropped) {
  BlockRecord record{.round = 3, .block = 11, .matrices = {}};
  for (const char* name : {"model.layers.11.q.weight", "z"}) {
    MatrixRecord matrix;
    matrix.name = name;
    matrix.matrix = random_packed(rows, cols, dtype, dropped, record.matrices.size() + 1);
    matrix.keep = 2;
    matrix.group = 4;
    record.matrices.push_back(std::move(matrix));
  }
  record.matrices.emplace_back().name = "dense";
  record.matrices.back().pruned = false;
  record.matrices.back().matrix.rows = rows;
  record.matrices.back().matrix.cols = cols;
  return record;
}

TEST(BlockCodec, GivesBackMasksAndValuesOfAnyShapeAndDtype) {
  for (const auto& [rows, cols] : {std::pair{0, 0}, std::pair{1, 1}, std::pair{1, 7}, std::pair{5, 13},
                                   std::pair{8, 8}, std::pair{4, 129}})
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (const Dropped dropped : {Dropped::none, Dropped::half, Dropped::all}) {
        const BlockRecord record = block_of(rows, cols, dtype, dropped);
        expect_equal(decode_block(encode_block(record)), record);
      }
}

TEST(BlockCodec, CarriesABlockWithoutMatrices) {
  const BlockRecord record{.round = 1, .block = 2, .matrices = {}};
  expect_equal(decode_block(encode_block(record)), record);
}

TEST(BlockCodec, SendsNoVotesAndNoStatistics) {
  BlockRecord record{
      .round = 1,
      .block = 0,
      .matrices = {consistent_record("w", random_packed(64, 64, DType::bf16, Dropped::half), 5)}};
  const auto bytes = encode_block(record);
  const BlockRecord found = decode_block(bytes);
  EXPECT_TRUE(found.matrices[0].votes.empty());
  EXPECT_TRUE(found.matrices[0].clients.empty());
  EXPECT_LT(bytes.size(), 64 * 64 / 8 + record.matrices[0].matrix.values.size() + 200);
}

TEST(BlockCodec, FindsEveryFlippedBit) {
  const auto bytes = encode_block(block_of(3, 5, DType::f16, Dropped::half));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    auto damaged = bytes;
    damaged[i] ^= std::byte{1} << (i % 8);
    EXPECT_THROW((void)decode_block(damaged), DataError) << "byte " << i;
  }
}

TEST(BlockCodec, FindsEveryTruncationAndTrailingBytes) {
  const auto bytes = encode_block(block_of(3, 5, DType::f16, Dropped::half));
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THROW((void)decode_block(std::span(bytes).first(size)), DataError) << "size " << size;
  auto longer = bytes;
  longer.push_back(std::byte{0});
  expect_error<DataError>([&] { (void)decode_block(longer); }, {"payload"});
}

TEST(BlockCodec, NamesVersionsItDoesNotKnow) {
  auto bytes = encode_block({});
  bytes[4] = std::byte{9};
  expect_error<DataError>([&] { (void)decode_block(bytes); }, {"version 9", "expected 1"});
  bytes[0] = std::byte{'X'};
  expect_error<DataError>([&] { (void)decode_block(bytes); }, {"FSPB"});
}

TEST(BlockCodec, RefusesReservedBytesThatAreNotZero) {
  auto bytes = encode_block({});
  bytes[20] = std::byte{1};
  const std::uint64_t header_checksum = checksum(std::span(bytes).first(40));
  std::memcpy(bytes.data() + 40, &header_checksum, sizeof(header_checksum));
  expect_error<DataError>([&] { (void)decode_block(bytes); }, {"reserved"});
}

TEST(BlockCodec, RefusesRecordsWhoseCountsDisagree) {
  BlockRecord record = block_of(3, 5, DType::f32, Dropped::half);
  ++record.matrices[0].matrix.kept;
  expect_error<LogicError>([&] { (void)encode_block(record); }, {"agrees with its counts"});
  record = block_of(3, 5, DType::f32, Dropped::half);
  record.matrices[1].name.clear();
  expect_error<LogicError>([&] { (void)encode_block(record); }, {"name"});
}

}  // namespace
}  // namespace fedspallm::store::test
