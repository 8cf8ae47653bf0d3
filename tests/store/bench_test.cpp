// SPDX-License-Identifier: Apache-2.0
// The checkpoint benchmark writes what it says it writes and leaves nothing behind. No timing is judged.
#include "fedspallm/store/bench.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "store_support.hpp"

namespace fedspallm::store::test {
namespace {

CheckpointBenchOptions tiny() {
  CheckpointBenchOptions options;
  options.repeats = 2;
  options.hidden = 24;
  options.intermediate = 40;
  options.heads = 3;
  options.kv_heads = 1;
  options.head_dim = 8;
  options.tokens = 20;
  options.model_blocks = 2;
  options.vocabulary = 32;
  return options;
}

TEST(CheckpointBench, EveryRowHasBytesTimesAndALimit) {
  const TemporaryFolder folder;
  const auto rows = bench_checkpoint(folder.path(), tiny());
  ASSERT_EQ(rows.size(), 5U);
  for (const CheckpointBenchRow& row : rows) {
    EXPECT_GT(row.bytes, 0) << row.name;
    EXPECT_GT(row.seconds, 0) << row.name;
    EXPECT_GT(row.share(), 0) << row.name;
  }
  EXPECT_EQ(rows[1].name, "client state, written");
  EXPECT_EQ(rows[1].bytes, 64 + 20 * 24 * 4);
  // q and o 24 x 24, k and v 8 x 24, gate, up and down 40 x 24; 2 norms in each of 2 blocks, 1 at the end
  constexpr std::int64_t kWeights = 2 * (2 * 576 + 2 * 192 + 3 * 960 + 2 * 24) + 24 + 32 * 24;
  EXPECT_EQ(rows[4].name, "output model");
  EXPECT_GT(rows[4].bytes, 2 * kWeights);  // and headers
  EXPECT_LT(rows[4].bytes, 2 * kWeights + 5000);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(CheckpointBench, BadFoldersAndSizesAreRefused) {
  const TemporaryFolder folder;
  EXPECT_THROW((void)bench_checkpoint(folder.path() / "none", tiny()), ResourceError);
  CheckpointBenchOptions options = tiny();
  options.repeats = 0;
  EXPECT_THROW((void)bench_checkpoint(folder.path(), options), LogicError);
  options = tiny();
  options.vocabulary = 0;
  EXPECT_THROW((void)bench_checkpoint(folder.path(), options), LogicError);
}

}  // namespace
}  // namespace fedspallm::store::test
