// SPDX-License-Identifier: Apache-2.0
// What the root does with blocks that other ranks have written.
#include "root.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "support/expect_error.hpp"
#include "support/support.hpp"
#include <string>
#include <vector>

namespace fedspallm::app {
namespace {

using test::expect_error;
using test::TemporaryFolder;

/// Two weights of three dropped.
store::BlockRecord record_of(std::uint32_t round, std::uint32_t block) {
  store::MatrixRecord matrix;
  matrix.name = fmt::format("w{}", round);
  matrix.matrix =
      wire::pack(1, 3, DType::f32, std::vector<float>{1, 2, 3}, std::vector<std::uint8_t>{0, 1, 0});
  matrix.votes = {2, 0, 1};
  return {.round = round, .block = block, .matrices = {matrix}};
}

class Ledger : public testing::Test {
 protected:
  /// What a writer says of a block that it has written.
  [[nodiscard]] WrittenBlock written(std::uint32_t round, std::uint32_t block) const {
    WrittenBlock result;
    result.summary.round = round;
    result.summary.block = block;
    result.entry = store::BlockFiles(paths_.blocks(), "").write_file(record_of(round, block));
    return result;
  }
  [[nodiscard]] RootLedger ledger(bool coverage_required) {
    return {store_,
            coverage_required,
            {[this] { happened_.push_back(fmt::format("before, {} listed", store_.blocks().size())); },
             [this](const BlockSummary& summary) {
               happened_.push_back(fmt::format("after {}, {} listed", summary.block, store_.blocks().size()));
             }}};
  }
  TemporaryFolder folder_;
  store::RunPaths paths_{folder_.path()};
  store::BlockStore store_ = store::BlockStore::of_run(paths_);
  std::vector<std::string> happened_;
};

TEST_F(Ledger, TakesUpFilesInAnyOrderAfterWhatMustBeOnDiskEarlier) {
  RootLedger ledger = this->ledger(true);
  ledger.take(written(1, 1));
  ledger.take(written(1, 0));
  EXPECT_EQ(happened_, (std::vector<std::string>{"before, 0 listed", "after 1, 1 listed", "before, 1 listed",
                                                 "after 0, 2 listed"}));
  EXPECT_EQ(store::BlockStore::of_run(paths_).blocks().size(), 2U);
  EXPECT_EQ(store::BlockFiles(paths_.blocks(), ledger.list()).read_block(1, 1).matrices.front().name, "w1");
}

TEST_F(Ledger, TakesBlocksWithoutANewFileAsTheyAre) {
  RootLedger ledger = this->ledger(true);
  WrittenBlock block;
  block.summary.block = 4;
  ledger.take(block);
  EXPECT_EQ(happened_.back(), "after 4, 0 listed");
}

TEST_F(Ledger, RefusesAMatrixThatNobodyDeliveredWhereCoverageIsRequired) {
  WrittenBlock block = written(1, 0);
  block.uncovered = "layers.0.q_proj";
  RootLedger strict = ledger(true);
  expect_error<DataError>([&] { strict.take(block); }, {"layers.0.q_proj", "all clients", "coverage"});
  EXPECT_EQ(happened_, (std::vector<std::string>{"before, 0 listed"}))
      << "who was dropped is said all the same";
  EXPECT_TRUE(store_.blocks().empty());
  RootLedger lenient = ledger(false);
  lenient.take(block);
  EXPECT_EQ(store_.blocks().size(), 1U);
}

TEST_F(Ledger, ProvidesTheNewestRecordOfEarlierRounds) {
  RootLedger ledger = this->ledger(true);
  for (std::uint32_t round = 1; round <= 3; ++round) ledger.take(written(round, 2));
  const auto provided = [&](std::uint32_t round) {
    ledger.begin_round(round);
    return store::decode_block(ledger.provide(2)).matrices.front().name;
  };
  EXPECT_EQ(provided(2), "w1");
  EXPECT_EQ(provided(3), "w2");
  EXPECT_EQ(provided(9), "w3");
  ledger.begin_round(1);
  EXPECT_TRUE(ledger.provide(2).empty());
  EXPECT_TRUE(ledger.provide(0).empty());
}

}  // namespace
}  // namespace fedspallm::app
