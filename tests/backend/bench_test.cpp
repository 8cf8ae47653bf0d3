// SPDX-License-Identifier: Apache-2.0
// The benchmark runs on any backend and counts its work rightly; times are not judged.
#include "fedspallm/backend/bench.hpp"

#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedspallm::test {
namespace {

backend::BenchOptions tiny() {
  backend::BenchOptions options;
  options.threads = 2;
  options.repetitions = 1;
  options.hidden = 12;
  options.intermediate = 20;
  options.heads = 3;
  options.kv_heads = 1;
  options.head_dim = 4;
  options.sequences = 2;
  options.sequence_length = 5;
  options.block_size = 8;
  options.limit_size = 64;
  options.triad_bytes = 1 << 16;
  return options;
}

TEST(Bench, EveryRowHasWorkTimeAndALimitOnAnyBackend) {
  for (const bool cpu : {false, true}) {
    const auto backend = cpu ? backend::make_cpu_backend(2) : backend::make_reference_backend();
    for (const char* name : {"forward", "hessian", "factorization", "sweep", "sparsegpt", "spmm"}) {
      const auto rows = run_backend_bench(*backend, name, tiny());
      ASSERT_FALSE(rows.empty());
      for (const auto& row : rows) {
        EXPECT_GT(row.work, 0) << row.name;
        EXPECT_GT(row.seconds, 0) << row.name;
        EXPECT_GT(row.limit_rate, 0) << row.name;
        EXPECT_GT(row.per_block, 0) << row.name;
      }
    }
  }
}

TEST(Bench, SixteenBitProductsHaveALimitOfTheirOwn) {
  if (const auto lacks = backend::lacks_for(backend::Products::bf16, select_isa()); !lacks.empty())
    GTEST_SKIP() << lacks;
  const auto backend = backend::make_cpu_backend(2, std::nullopt, backend::Products::bf16);
  const backend::BenchOptions options = tiny();
  double least = 0;
  const auto rows = run_backend_bench(*backend, "sparsegpt", options);
  for (const auto& row : rows) {
    const bool activations = row.name.starts_with("linear") || row.name.starts_with("gram");
    if (&row != &rows.back()) {
      EXPECT_EQ(row.limit == "bf16", activations) << row.name;
      if (row.limit != "triad") least += row.per_block * row.work / row.limit_rate;
    }
  }
  EXPECT_DOUBLE_EQ(rows.back().work / rows.back().limit_rate, least);
}

TEST(Bench, DecoderBlockAddsUpItsPieces) {
  const auto backend = backend::make_cpu_backend(2);
  const auto rows = run_backend_bench(*backend, "sparsegpt", tiny());
  double work = 0;
  double seconds = 0;
  for (std::size_t i = 0; i + 1 < rows.size(); ++i) {
    seconds += rows[i].per_block * rows[i].seconds;
    if (rows[i].limit == "sgemm") work += rows[i].per_block * rows[i].work;
  }
  EXPECT_EQ(rows.back().name, "decoder block");
  EXPECT_DOUBLE_EQ(rows.back().work, work);
  EXPECT_DOUBLE_EQ(rows.back().seconds, seconds);
  EXPECT_EQ(rows.front().work, 2.0 * 10 * 12 * 12);  // linear q: 2 x tokens x out x in
}

TEST(Bench, UnknownNamesAreRefusedWithTheKnownOnes) {
  const auto backend = backend::make_reference_backend();
  EXPECT_THAT([&] { static_cast<void>(run_backend_bench(*backend, "swep", tiny())); },
              testing::ThrowsMessage<ConfigError>(testing::HasSubstr("sparsegpt or spmm")));
}

}  // namespace
}  // namespace fedspallm::test
