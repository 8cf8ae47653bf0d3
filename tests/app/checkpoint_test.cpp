// SPDX-License-Identifier: Apache-2.0
// What a process that goes on takes for merged, and what it reads to know that.
#include "checkpoint.hpp"

#include <gtest/gtest.h>

#include "support/support.hpp"
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace fedspallm::app {
namespace {

using test::TemporaryFolder;
using Dropped = std::map<std::int64_t, std::int64_t>;

constexpr std::uint32_t kRounds = 3, kBlocks = 4;

/// `round` weights of four dropped.
store::BlockRecord record_of(std::uint32_t round, std::uint32_t block) {
  store::MatrixRecord matrix;
  matrix.name = "w";
  std::vector<std::uint8_t> kept(4, 1);
  std::fill_n(kept.begin(), round, std::uint8_t{0});
  matrix.matrix = wire::pack(1, 4, DType::f32, std::vector<float>{1, 2, 3, 4}, kept);
  return {.round = round, .block = block, .matrices = {matrix}};
}

class MergedUntil : public testing::Test {
 protected:
  void SetUp() override {
    shape_.rounds = kRounds;
    shape_.blocks = kBlocks;
    shape_.drawn.assign(kRounds, {std::vector<bool>(kBlocks, true)});
  }
  /// Everything before this position is written.
  void write_before(store::Position end) {
    for (store::Position at; at < end; at = after(shape_, at))
      store_.write_block(record_of(at.round, at.block));
  }
  /// The size stays.
  void damage(std::uint32_t round, std::uint32_t block) {
    std::fstream file(store_.block_file(round, block), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(100);
    file.put('\x55');
  }
  [[nodiscard]] Merged found() {
    said_.clear();
    beats_ = 0;
    return merged_until(
        store_, shape_, {},
        {.say = [this](const std::string& line) { said_.push_back(line); }, .beat = [this] { ++beats_; }});
  }
  TemporaryFolder folder_;
  RunShape shape_;
  store::BlockStore store_ = store::BlockStore::of_run({folder_.path()});
  std::vector<std::string> said_;
  int beats_ = 0;
};

TEST_F(MergedUntil, reads_what_is_needed_once_and_beats_before_each_file) {
  write_before({3, 2});
  const Merged merged = found();
  EXPECT_EQ(merged.until, (store::Position{3, 2}));
  EXPECT_EQ(merged.dropped, (Dropped{{0, 3}, {1, 3}, {2, 2}, {3, 2}}));
  EXPECT_EQ(beats_, 2 + 4) << "the newest records, and those the round began with";
  EXPECT_TRUE(said_.empty());
}

TEST_F(MergedUntil, does_not_read_older_rounds_but_misses_their_files) {
  write_before({3, 2});
  damage(1, 1);
  EXPECT_EQ(found().until, (store::Position{3, 2}));
  std::filesystem::remove(store_.block_file(1, 1));
  EXPECT_EQ(found().until, (store::Position{1, 1}));
  ASSERT_EQ(said_.size(), 1U);
  EXPECT_NE(said_.front().find("r01-b0001.h5: missing"), std::string::npos) << said_.front();
}

TEST_F(MergedUntil, falls_back_before_what_is_damaged) {
  write_before({3, 2});
  damage(3, 1);
  Merged merged = found();
  EXPECT_EQ(merged.until, (store::Position{3, 1}));
  EXPECT_EQ(merged.dropped, (Dropped{{0, 3}, {1, 2}, {2, 2}, {3, 2}}));
  ASSERT_EQ(said_.size(), 1U);
  EXPECT_NE(said_.front().find("falling back"), std::string::npos) << said_.front();
  damage(2, 0);  // block 0 of round 3 began with it
  merged = found();
  EXPECT_EQ(merged.until, (store::Position{2, 0}));
  EXPECT_EQ(merged.dropped, (Dropped{{0, 1}, {1, 1}, {2, 1}, {3, 1}}));
  std::filesystem::resize_file(store_.block_file(1, 2), 10);
  EXPECT_EQ(found().until, (store::Position{1, 2}));
  EXPECT_EQ(said_.size(), 1U);
}

TEST_F(MergedUntil, passes_over_blocks_that_nobody_prunes) {
  shape_.drawn[0][0][2] = false;
  store_.write_block(record_of(1, 0));
  store_.write_block(record_of(1, 1));
  store_.write_block(record_of(1, 3));
  EXPECT_EQ(found().until, (store::Position{2, 0}));
  EXPECT_EQ(found().dropped, (Dropped{{0, 1}, {1, 1}, {3, 1}}));
}

}  // namespace
}  // namespace fedspallm::app
