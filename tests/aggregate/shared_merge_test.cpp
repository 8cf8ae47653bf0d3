// SPDX-License-Identifier: Apache-2.0
// One state to which several threads add at once has the sums of one thread adding alone.
#include "fedspallm/aggregate/shared_merge.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "wire/random_matrix.hpp"
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace fedspallm::aggregate {
namespace {

constexpr std::int64_t kWeights = SharedMerge::kStripe * kTile;  // in a stripe

/// Aligned memory full of what no sum is.
class Memory {
 public:
  explicit Memory(std::int64_t bytes)
      : bytes_(static_cast<std::size_t>(bytes)), memory_(new (kAligned) std::byte[bytes_]) {
    std::memset(memory_.get(), 0xa5, bytes_);
  }
  [[nodiscard]] std::span<std::byte> all() const { return {memory_.get(), bytes_}; }

 private:
  static constexpr std::align_val_t kAligned{SharedMerge::kAlignment};
  struct Delete {
    void operator()(std::byte* memory) const { ::operator delete[](memory, kAligned); }
  };
  std::size_t bytes_;
  std::unique_ptr<std::byte[], Delete> memory_;
};

wire::MatrixUpdate update_of(std::uint32_t client, std::int64_t rows, std::int64_t cols, DType dtype,
                             bool diagonal) {
  wire::MatrixUpdate update;
  update.client = client;
  update.matrix = test::random_packed(100 + client, rows, cols, 0.5, dtype);
  for (std::int64_t c = 0; diagonal && c < cols; ++c)
    update.hessian_diagonal.push_back(
        static_cast<float>(8 * test::uniform(900 + client, static_cast<std::uint64_t>(c))));
  return update;
}

struct Case {
  std::int64_t rows, cols;
  DType dtype = DType::bf16;
  bool diagonal = true;
};

class Adding {
 public:
  Adding(const Case& shape, int clients)
      : shape_(shape), memory_(SharedMerge::bytes(shape.rows, shape.cols)) {
    float largest = 0;
    for (int client = 0; client < clients; ++client) {
      updates.push_back(
          update_of(static_cast<std::uint32_t>(client), shape.rows, shape.cols, shape.dtype, shape.diagonal));
      largest = std::max(largest, wire::largest_magnitude(updates.back().matrix));
    }
    scale_ = FixedPoint::covering(largest, clients);
    diagonal_scale_ = FixedPoint::covering(8, clients);
  }
  [[nodiscard]] SharedMerge view() const {
    return {memory_.all(), shape_.rows, shape_.cols, scale_, diagonal_scale_};
  }
  void expect_serial_sums() const {
    PartialMerge alone(shape_.rows, shape_.cols, scale_, diagonal_scale_);
    for (const wire::MatrixUpdate& update : updates) {
      alone.add(update.matrix);
      if (shape_.diagonal) alone.add_diagonal(update.hessian_diagonal);
    }
    const PartialMerge shared = view().sums();
    EXPECT_TRUE(std::ranges::equal(shared.tiles(), alone.tiles()));
    EXPECT_TRUE(std::ranges::equal(shared.diagonal_sums(), alone.diagonal_sums()));
  }
  std::vector<wire::MatrixUpdate> updates;

 private:
  Case shape_;
  Memory memory_;
  FixedPoint scale_, diagonal_scale_;
};

const Case kShapes[] = {{0, 0},
                        {1, 1, DType::f32},
                        {5, 13},
                        {1, kWeights - 1, DType::f16},
                        {1, kWeights},
                        {1, kWeights + 1},
                        {64, 1000, DType::f32},
                        {3 * SharedMerge::kStripe + 1, kTile, DType::bf16, false}};

constexpr auto kGoOn = [] { return true; };

TEST(SharedMerge, HasTheSumsOfOneThreadHoweverManyAdd) {
  for (const Case& shape : kShapes) {
    for (const int adders : {1, 2, 5}) {
      SCOPED_TRACE(fmt::format("{} x {}, {} adders", shape.rows, shape.cols, adders));
      Adding adding(shape, 6);
      for (int generation = 0; generation < 2; ++generation) {  // the second finds the first one's sums
        adding.view().clear();
        std::vector<std::jthread> threads;
        for (int adder = 0; adder < adders; ++adder) {
          threads.emplace_back([&, adder] {
            SharedMerge view = adding.view();
            const auto begin = static_cast<std::size_t>(6 * adder / adders);
            const auto end = static_cast<std::size_t>(6 * (adder + 1) / adders);
            const auto mine = std::span(adding.updates).subspan(begin, end - begin);
            EXPECT_TRUE(view.add(mine.first(mine.size() / 2), {adder, adders}, kGoOn));
            EXPECT_TRUE(view.add(mine.subspan(mine.size() / 2), {adder, adders}, kGoOn));
          });
        }
        threads.clear();
        adding.expect_serial_sums();
      }
    }
  }
}

TEST(SharedMerge, IsZeroWhenSomebodyAddedNothing) {
  Adding adding({2, kWeights}, 1);
  adding.updates.clear();
  adding.view().clear();
  SharedMerge view = adding.view();
  EXPECT_TRUE(view.add({}, {0, 1}, kGoOn));
  adding.expect_serial_sums();
}

/// Somebody holds a stripe for as long as the caller of its go_on likes: here one thread waits for another.
TEST(SharedMerge, WaitsForBusyStripesUntilItIsToldNotTo) {
  Adding adding({1, 64}, 2);
  adding.view().clear();
  auto* word = reinterpret_cast<std::uint32_t*>(adding.view().sums().tiles().data()) -
               SharedMerge::kAlignment / sizeof(std::uint32_t);
  std::atomic_ref held(*word);  // the only stripe of tiles, as a process holds it that was killed
  ASSERT_EQ(held.load(), 0U);
  held = 1;
  int asked = 0;
  SharedMerge view = adding.view();
  EXPECT_FALSE(view.add(adding.updates, {0, 1}, [&] { return ++asked < 3; }));
  EXPECT_EQ(asked, 3);

  adding.view().clear();
  held = 1;
  EXPECT_TRUE(view.add(adding.updates, {0, 1}, [&] {
    held = 0;  // let go
    return true;
  }));
  adding.expect_serial_sums();
}

TEST(SharedMerge, LetsAStripeGoWhenItsAdditionFails) {
  Adding adding({1, 64, DType::f32}, 2);
  adding.view().clear();
  SharedMerge view = adding.view();
  std::vector<wire::MatrixUpdate> bad = {adding.updates[0]};
  bad[0].hessian_diagonal[3] = -1;
  EXPECT_THROW((void)view.add(bad, {0, 1}, kGoOn), LogicError);
  EXPECT_TRUE(view.add(adding.updates, {0, 1}, [] { return false; })) << "nothing is busy";
}

TEST(SharedMerge, RefusesWhatItCannotAdd) {
  Adding adding({4, 40}, 1);
  SharedMerge view = adding.view();
  EXPECT_THROW((void)view.add(adding.updates, {1, 1}, kGoOn), LogicError);
  EXPECT_THROW((void)view.add(adding.updates, {-1, 1}, kGoOn), LogicError);
  std::vector<wire::MatrixUpdate> reshaped = {update_of(0, 5, 40, DType::bf16, true)};
  EXPECT_THROW((void)view.add(reshaped, {0, 1}, kGoOn), LogicError);
  EXPECT_THROW((void)SharedMerge::bytes(-1, 1), LogicError);
  const Memory memory(SharedMerge::bytes(4, 40));
  EXPECT_THROW(SharedMerge(memory.all().first(memory.all().size() - 1), 4, 40, {}, {}), LogicError);
  EXPECT_THROW(SharedMerge(memory.all().subspan(8), 1, 1, {}, {}), LogicError) << "not aligned";
}

TEST(PartialMerge, UsesLentMemoryAsItIs) {
  std::vector<Tile> tiles(2);
  tiles[1].sum[0] = 7;
  std::vector<std::int64_t> diagonal = {1, 2, 3};
  PartialMerge lent(30, 3, {}, {}, tiles, diagonal);
  PartialMerge own(30, 3, {}, {});
  own.add(lent);
  EXPECT_EQ(own.tiles()[1].sum[0], 7);
  lent.add(own);
  EXPECT_EQ(tiles[1].sum[0], 14);
  EXPECT_EQ(diagonal, (std::vector<std::int64_t>{2, 4, 6}));
  EXPECT_THROW(PartialMerge(30, 3, {}, {}, std::span(tiles).first(1), diagonal), LogicError);
  EXPECT_THROW(PartialMerge(30, 3, {}, {}, tiles, std::span(diagonal).first(2)), LogicError);
}

}  // namespace
}  // namespace fedspallm::aggregate
