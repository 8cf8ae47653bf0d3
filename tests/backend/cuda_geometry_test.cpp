// SPDX-License-Identifier: Apache-2.0
// Launch geometry and workspace arithmetic: every element belongs to exactly one thread's share, limits hold.
#include <gtest/gtest.h>

#include "../../src/backend/cuda/geometry.hpp"
#include <cstddef>
#include <numeric>
#include <utility>

namespace fedspallm::test {
namespace {

using namespace backend::cuda;

constexpr std::int64_t sizes[] = {1, 2, 31, 32, 33, 127, 128, 255, 256, 257, 1023, 1024, 1025, 11008, 28672};

TEST(CudaGeometry, ElementwiseBlocksCoverEveryColumnOnceAndRowsByTurns) {
  for (const std::int64_t cols : sizes)
    for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{70000}}) {
      const Geometry geometry = elementwise_geometry(rows, cols);
      const std::int64_t per_block = geometry.threads * elements_per_thread;
      EXPECT_TRUE(geometry.valid());
      EXPECT_EQ(geometry.threads % warp_size, 0U);
      EXPECT_GE(geometry.grid_x * per_block, cols);
      EXPECT_LT((geometry.grid_x - 1) * per_block, cols);
      EXPECT_EQ(geometry.grid_y, std::min<std::int64_t>(rows, 65535));
    }
  EXPECT_TRUE(elementwise_geometry(0, 5).empty());
  EXPECT_TRUE(elementwise_geometry(5, 0).empty());
  EXPECT_TRUE(elementwise_geometry(1, std::int64_t{1} << 40).valid());
  EXPECT_FALSE(block_geometry(std::int64_t{1} << 31).valid());
}

TEST(CudaGeometry, RowBlocksAreWholeWarpsAndNoLargerThanTheirRows) {
  for (const std::int64_t cols : sizes) {
    const Geometry geometry = row_geometry(7, cols);
    EXPECT_EQ(geometry.grid_x, 7);
    EXPECT_EQ(geometry.threads % warp_size, 0U);
    EXPECT_TRUE(geometry.threads == warp_size || geometry.threads - warp_size < static_cast<unsigned>(cols));
  }
  EXPECT_EQ(row_geometry(1, 64).threads, 32U);
  EXPECT_EQ(row_geometry(1, 2048).threads, 256U);
}

TEST(CudaGeometry, UnitsCoverAllElements) {
  for (const std::int64_t size : {std::int64_t{0}, std::int64_t{1}, std::int64_t{8191}, std::int64_t{8193},
                                  std::int64_t{45088768}, std::int64_t{4294967295}}) {
    for (const Units& units : {pack_units(size), select_units(size), sum_units(size)}) {
      EXPECT_GE(units.count() * units.unit, size);
      EXPECT_TRUE(size == 0 || (units.count() - 1) * units.unit < size);
      EXPECT_TRUE(units.geometry().valid());
      EXPECT_EQ(units.unit % block_threads, 0);
    }
    EXPECT_LE(select_units(size).count(), 1024);
  }
  EXPECT_EQ(pack_unit % 64, 0);
}

TEST(CudaGeometry, SelectionDigitsCoverTheKey) {
  EXPECT_EQ(select_digit_bits[0] + select_digit_bits[1] + select_digit_bits[2], 32);
  int above = 32;
  for (int digit = 0; digit < select_digits; ++digit) {
    EXPECT_EQ(select_digit_shift[digit] + select_digit_bits[digit], above);
    EXPECT_LE(1U << select_digit_bits[digit], select_bins);
    above = select_digit_shift[digit];
  }
}

TEST(CudaGeometry, MergeDigitsCoverADoubleWithoutItsSign) {
  int above = 63;
  for (int digit = 0; digit < merge_digits; ++digit) {
    EXPECT_EQ(merge_digit_shift[digit] + merge_digit_bits[digit], above);
    EXPECT_LE(1U << merge_digit_bits[digit], select_bins);
    above = merge_digit_shift[digit];
  }
  EXPECT_EQ(above, 0);
}

TEST(CudaGeometry, VotesAreAsNarrowAsTheClientsAllow) {
  EXPECT_EQ(merge_vote_width(1), 1);
  EXPECT_EQ(merge_vote_width(255), 1);
  EXPECT_EQ(merge_vote_width(256), 2);
  EXPECT_EQ(merge_vote_width(65535), 2);
  EXPECT_EQ(merge_vote_width(65536), 4);
}

TEST(CudaGeometry, AMergesWorkspaceHoldsItsPartsWithoutOverlap) {
  for (const std::int64_t size :
       {std::int64_t{1}, std::int64_t{4096}, std::int64_t{4097}, std::int64_t{45088768}})
    for (const std::uint32_t clients : {1U, 300U, 70000U})
      for (const std::int64_t element : {2, 4}) {
        const std::int64_t columns = 11008, units = (size + 4095) / 4096;
        const MergeLayout layout = merge_layout(size, columns, clients, element);
        const std::int64_t votes = clients < 256 ? 1 : clients < 65536 ? 2 : 4;
        // In the order of the parts: where each begins and what it needs.
        const std::pair<std::size_t, std::int64_t> parts[] = {{layout.elements, size * element},
                                                              {layout.votes, size * votes},
                                                              {layout.bits, (size + 63) / 64 * 8},
                                                              {layout.column_weights, columns * 8},
                                                              {layout.kept_by, (clients + 2) * 8},
                                                              {layout.bins, 2048 * 4},
                                                              {layout.counts, units * 4},
                                                              {layout.starts, (units + 1) * 8},
                                                              {layout.state, 24},
                                                              {layout.facts, 32}};
        std::int64_t end = 0;
        for (const auto& [offset, bytes] : parts) {
          EXPECT_GE(static_cast<std::int64_t>(offset), end);
          EXPECT_LT(static_cast<std::int64_t>(offset), end + 256);
          EXPECT_EQ(offset % 256, 0U);
          end = static_cast<std::int64_t>(offset) + bytes;
        }
        EXPECT_GE(static_cast<std::int64_t>(layout.bytes), end);
        EXPECT_LT(static_cast<std::int64_t>(layout.bytes), end + 256);
      }
}

TEST(CudaGeometry, SweepPiecesHoldWholeGroupsAndFitSharedMemory) {
  EXPECT_EQ(sweep_piece(0), 128);
  for (int m = 1; m <= 128; ++m) {
    EXPECT_EQ(sweep_piece(m) % m, 0);
    EXPECT_LE(sweep_piece(m), 128);
    EXPECT_GT(sweep_piece(m) + m, 128);
  }
  EXPECT_EQ(sweep_tiles(1), 1);
  EXPECT_EQ(sweep_tiles(32), 1);
  EXPECT_EQ(sweep_tiles(33), 2);
  EXPECT_EQ(sweep_tiles(128), 4);
  // U, its diagonal and the groups' scores: the 48 KB that every device grants without asking.
  EXPECT_LE((sweep_factor_floats(4) + sweep_columns + block_warps * sweep_columns) * sizeof(float),
            48U << 10);
  EXPECT_EQ(sweep_geometry(4096).grid_x, 128);
  EXPECT_EQ(sweep_geometry(1).grid_x, 1);
  EXPECT_TRUE(sweep_geometry(0).empty());
}

TEST(CudaGeometry, AttentionKeepsTilesWithinItsMemory) {
  for (const std::int64_t heads : {1, 9, 32, 64})
    for (const std::int64_t length : {1, 7, 512, 2048, 8192, 131072}) {
      const std::int64_t rows = attention_tile_rows(length, heads);
      EXPECT_GE(rows, 1);
      EXPECT_LE(rows, std::min<std::int64_t>(length, attention_largest_tile));
      EXPECT_TRUE(rows <= 16 || rows * length * heads * 4 <= attention_bytes) << heads << " " << length;
    }
  EXPECT_EQ(attention_tile_rows(2048, 32), 256);  // LLaMA-2-7B: 64 MiB of scores
  EXPECT_EQ(attention_first_key(100, 0), 0);
  EXPECT_EQ(attention_first_key(100, 30), 71);
  EXPECT_EQ(attention_first_key(10, 30), 0);
}

TEST(CudaGeometry, AttentionNarrowsOperandsOf16BitProductsOnly) {
  const AttentionLayout plain = attention_layout(2048, 64, 8, 128, false);
  EXPECT_EQ(plain.bytes, static_cast<std::size_t>(attention_bytes));
  const AttentionLayout narrowed = attention_layout(2048, 64, 8, 128, true);
  const std::size_t weights = plain.bytes / 2, queries = 2048 * 64 * 128 * 2, keys = queries / 8;
  EXPECT_EQ(narrowed.weights, plain.bytes);
  EXPECT_EQ(narrowed.queries, plain.bytes + weights);
  EXPECT_EQ(narrowed.keys, narrowed.queries + queries);
  EXPECT_EQ(narrowed.values, narrowed.keys + keys);
  EXPECT_EQ(narrowed.bytes, narrowed.values + keys);
}

TEST(CudaGeometry, HessiansOfLargeModelsComeInLargerTiles) {
  EXPECT_EQ(gram_tile(576), 1024);
  EXPECT_EQ(gram_tile(4095), 1024);
  EXPECT_EQ(gram_tile(4096), 2048);
  EXPECT_EQ(gram_tile(28672), 2048);
}

TEST(CudaGeometry, LayoutsAlignTheirPartsAndDoNotOverlap) {
  Layout layout;
  EXPECT_EQ(layout.add<double>(3), 0U);
  EXPECT_EQ(layout.add<std::uint16_t>(0), 256U);
  EXPECT_EQ(layout.add<std::uint16_t>(129), 256U);
  EXPECT_EQ(layout.add<float>(1), 768U);
  EXPECT_EQ(layout.bytes(), 1024U);
}

}  // namespace
}  // namespace fedspallm::test
