// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/store/state_store.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "support/support.hpp"
#include <fstream>
#include <numeric>

namespace fedspallm::store {
namespace {

constexpr std::uint64_t kRun = 77;

class StateStoreTest : public testing::Test {
 protected:
  void write(StateStore& store, Position position, std::int64_t rows, std::int64_t columns) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    std::iota(values.begin(), values.end(), static_cast<float>(position.block));
    StateStore::Writing writing = store.begin(position, rows, columns);
    const std::size_t half = values.size() / 2;
    writing.append(std::span(values).first(half));
    writing.append(std::span(values).subspan(half));
    writing.close();
    writing.publish();
  }
  std::vector<float> read(const StateStore& store, Position position, std::int64_t rows, std::int64_t columns,
                          std::int64_t piece) {
    std::vector<float> all;
    store.read(position, rows, columns, piece, [&](std::int64_t first, std::span<const float> values) {
      EXPECT_EQ(first * columns, static_cast<std::int64_t>(all.size()));
      all.insert(all.end(), values.begin(), values.end());
    });
    return all;
  }
  [[nodiscard]] std::filesystem::path file() const {
    return folder_.path() / "state" / "a" / "r01-b0003.state";
  }

  test::TemporaryFolder folder_;
  StateStore store_ = StateStore::of_client(folder_.path(), "a", kRun);
};

TEST_F(StateStoreTest, WhatIsWrittenIsReadInPiecesOfAnySize) {
  for (const std::int64_t rows : {0, 1, 5, 7}) {
    write(store_, {1, 3}, rows, 3);
    EXPECT_TRUE(store_.verify({1, 3}, rows, 3));
    for (const std::int64_t piece : {1, 2, 7, 100}) {
      const auto values = read(store_, {1, 3}, rows, 3, piece);
      ASSERT_EQ(values.size(), static_cast<std::size_t>(rows * 3));
      for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], static_cast<float>(i + 3));
    }
  }
}

TEST_F(StateStoreTest, OtherRunShapePositionAreRefused) {
  write(store_, {1, 3}, 4, 2);
  EXPECT_FALSE(store_.verify({1, 3}, 2, 4));
  EXPECT_FALSE(store_.verify({1, 2}, 4, 2));
  EXPECT_FALSE(StateStore::of_client(folder_.path(), "a", kRun + 1).verify({1, 3}, 4, 2));
  EXPECT_FALSE(StateStore::of_client(folder_.path(), "b", kRun).verify({1, 3}, 4, 2));
  std::filesystem::copy(file(), folder_.path() / "state" / "a" / "r01-b0004.state");
  EXPECT_FALSE(store_.verify({1, 4}, 4, 2)) << "a renamed state is of another position";
}

TEST_F(StateStoreTest, EveryFlippedByteAndEveryCutIsSeen) {
  write(store_, {1, 3}, 3, 2);
  std::ifstream in(file(), std::ios::binary);
  const std::string good((std::istreambuf_iterator<char>(in)), {});
  ASSERT_EQ(good.size(), 64U + 24U);
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    std::ofstream(file(), std::ios::binary) << bad;
    EXPECT_FALSE(store_.verify({1, 3}, 3, 2)) << "byte " << at;
    std::ofstream(file(), std::ios::binary) << good.substr(0, at);
    EXPECT_FALSE(store_.verify({1, 3}, 3, 2)) << "cut at " << at;
  }
  std::ofstream(file(), std::ios::binary) << good + "x";
  EXPECT_FALSE(store_.verify({1, 3}, 3, 2));
}

TEST_F(StateStoreTest, UnpublishedStatesDoNotCount) {
  StateStore::Writing writing = store_.begin({1, 3}, 1, 1);
  writing.append(std::vector<float>{1});
  writing.close();
  EXPECT_TRUE(store_.positions().empty());
  writing.publish();
  EXPECT_EQ(store_.positions(), (std::vector<Position>{{1, 3}}));
}

TEST_F(StateStoreTest, ForgetKeepsTheNewestNotAfter) {
  for (const Position position : {Position{1, 2}, {1, 4}, {1, 6}, {2, 2}}) write(store_, position, 1, 1);
  store_.forget_before({1, 1});
  EXPECT_EQ(store_.positions().size(), 4U);
  store_.forget_before({1, 5});
  EXPECT_EQ(store_.positions(), (std::vector<Position>{{1, 4}, {1, 6}, {2, 2}}));
  store_.forget_before({1, 6});
  EXPECT_EQ(store_.positions(), (std::vector<Position>{{1, 6}, {2, 2}}));
  store_.forget_before({9, 0});
  EXPECT_EQ(store_.positions(), (std::vector<Position>{{2, 2}}));
  store_.clear();
  EXPECT_TRUE(store_.positions().empty());
}

TEST_F(StateStoreTest, ForgetAfterKeepsThePositionItself) {
  for (const Position position : {Position{1, 2}, {1, 4}, {2, 2}}) write(store_, position, 1, 1);
  store_.forget_after({1, 4});
  EXPECT_EQ(store_.positions(), (std::vector<Position>{{1, 2}, {1, 4}}));
  store_.forget_after({1, 0});
  EXPECT_TRUE(store_.positions().empty());
}

TEST_F(StateStoreTest, OtherFilesInTheFolderAreNoStates) {
  write(store_, {1, 3}, 1, 1);
  for (const char* name : {"r1-b3.state", "r01-b0005.state.part", "r01-b0005.state~", "x"})
    std::ofstream(folder_.path() / "state" / "a" / name) << "x";
  EXPECT_EQ(store_.positions(), (std::vector<Position>{{1, 3}}));
}

TEST_F(StateStoreTest, Preconditions) {
  EXPECT_THROW((void)store_.begin({1, 1}, -1, 1), LogicError);
  EXPECT_THROW((void)store_.begin({1, 1}, 1, 0), LogicError);
  StateStore::Writing writing = store_.begin({1, 1}, 2, 1);
  writing.append(std::vector<float>{1});
  EXPECT_THROW(writing.close(), LogicError);
  EXPECT_THROW(writing.publish(), LogicError);
  EXPECT_THROW(store_.read({1, 1}, 1, 1, 0, [](std::int64_t, std::span<const float>) {}), LogicError);
}

}  // namespace
}  // namespace fedspallm::store
