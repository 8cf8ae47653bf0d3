// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/merge.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/thread_pool.hpp"

#include <gtest/gtest.h>

#include "wire/random_matrix.hpp"
#include <algorithm>
#include <cmath>
#include <numeric>

namespace fedspallm::aggregate {
namespace {

using wire::PackedMatrix;

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};

std::vector<PackedMatrix> random_clients(std::int64_t count, std::int64_t rows, std::int64_t cols,
                                         DType dtype) {
  std::vector<PackedMatrix> clients;
  for (std::int64_t i = 0; i < count; ++i)
    clients.push_back(test::random_packed(static_cast<std::uint32_t>(100 + i), rows, cols, 0.5, dtype));
  return clients;
}

PartialMerge empty_like(const std::vector<PackedMatrix>& clients) {
  float largest = 0;
  for (const PackedMatrix& client : clients) largest = std::max(largest, largest_magnitude(client));
  const FixedPoint scale = FixedPoint::covering(largest, std::ssize(clients));
  return {clients.front().rows, clients.front().cols, scale, FixedPoint::covering(8.0F, std::ssize(clients))};
}

std::vector<float> diagonal_of(std::size_t client, std::int64_t cols) {
  std::vector<float> diagonal(static_cast<std::size_t>(cols));
  for (std::size_t c = 0; c < diagonal.size(); ++c)
    diagonal[c] = static_cast<float>(8 * test::uniform(static_cast<std::uint32_t>(900 + client), c));
  return diagonal;
}

void expect_same(const PartialMerge& left, const PartialMerge& right) {
  EXPECT_TRUE(std::ranges::equal(left.tiles(), right.tiles()));
  EXPECT_TRUE(std::ranges::equal(left.diagonal_sums(), right.diagonal_sums()));
}

TEST(PartialMerge, AnyOrderAndAnyTreeGiveTheSameBits) {
  for (const DType dtype : kTypes)
    for (const std::int64_t count : {1, 2, 3, 8, 13}) {
      const auto clients = random_clients(count, 9, 37, dtype);
      PartialMerge forwards = empty_like(clients), backwards = empty_like(clients),
                   at_once = empty_like(clients);
      std::vector<PartialMerge> leaves;
      std::vector<const PackedMatrix*> pointers;
      for (std::size_t i = 0; i < clients.size(); ++i) {
        const std::size_t last = clients.size() - 1 - i;
        forwards.add(clients[i]);
        forwards.add_diagonal(diagonal_of(i, 37));
        backwards.add(clients[last]);
        backwards.add_diagonal(diagonal_of(last, 37));
        at_once.add_diagonal(diagonal_of(i, 37));
        pointers.push_back(&clients[i]);
        leaves.push_back(empty_like(clients));
        leaves.back().add(clients[i]);
        leaves.back().add_diagonal(diagonal_of(i, 37));
      }
      at_once.add(pointers);
      while (leaves.size() > 1) {  // a tree with its branches taken from both ends
        leaves.front().add(leaves.back());
        leaves.pop_back();
        std::rotate(leaves.begin(), leaves.begin() + 1, leaves.end());
      }
      expect_same(forwards, backwards);
      expect_same(forwards, at_once);
      expect_same(forwards, leaves.front());
    }
}

TEST(PartialMerge, ThreadsDoNotChangeBits) {
  const auto clients = random_clients(3, 517, 601, DType::bf16);  // 310,717 weights: 5 units
  PartialMerge alone = empty_like(clients);
  for (const PackedMatrix& client : clients) alone.add(client);
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    PartialMerge one_by_one = empty_like(clients), at_once = empty_like(clients);
    for (const PackedMatrix& client : clients) one_by_one.add(client, &pool);
    const PackedMatrix* const pointers[] = {&clients[2], &clients[0], &clients[1]};
    at_once.add(pointers, &pool);
    expect_same(alone, one_by_one);
    expect_same(alone, at_once);
  }
}

TEST(PartialMerge, SumsOfSmallIntegersAreExact) {
  // Integers times 2^-10, so that the sums are known without any rounding.
  const std::int64_t size = 130;
  std::vector<PackedMatrix> clients;
  std::vector<std::int64_t> sum(static_cast<std::size_t>(size), 0), kept(sum);
  for (std::int64_t client = 0; client < 11; ++client) {
    std::vector<float> values;
    std::vector<std::uint8_t> flags;
    for (std::int64_t i = 0; i < size; ++i) {
      const std::int64_t integer = (client * 31 + i * 17) % 101 - 50;
      values.push_back(std::ldexp(static_cast<float>(integer), -10));
      flags.push_back((client + i) % 3 != 0 ? 1 : 0);
      sum[static_cast<std::size_t>(i)] += flags.back() != 0 ? integer : 0;
      kept[static_cast<std::size_t>(i)] += flags.back();
    }
    clients.push_back(wire::pack(10, 13, DType::f32, values, flags));
  }
  PartialMerge merge = empty_like(clients);
  for (const PackedMatrix& client : clients) merge.add(client);
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const Tile& tile = merge.tiles()[i / 64];
    EXPECT_EQ(std::ldexp(static_cast<double>(tile.sum[i % 64]), merge.scale().q + 10),
              static_cast<double>(sum[i]));
    EXPECT_EQ(tile.kept[i % 64], kept[i]);
  }
}

TEST(PartialMerge, EdgeShapesWork) {
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{0, 0}, {0, 9}, {9, 0}, {1, 1}, {1, 63}, {1, 65}}) {
    const auto clients = random_clients(2, rows, cols, DType::f16);
    PartialMerge merge = empty_like(clients);
    merge.add(clients[0]);
    merge.add(clients[1]);
    merge.add_diagonal(diagonal_of(0, cols));
    std::int64_t kept = 0;
    for (const Tile& tile : merge.tiles())
      kept = std::accumulate(std::begin(tile.kept), std::end(tile.kept), kept);
    EXPECT_EQ(kept, clients[0].kept + clients[1].kept);
  }
}

TEST(PartialMerge, AddTilesAddsElementwise) {
  const auto clients = random_clients(2, 5, 50, DType::f32);
  PartialMerge first = empty_like(clients), second = first, both = first;
  first.add(clients[0]);
  second.add(clients[1]);
  both.add(clients[0]);
  both.add(clients[1]);
  add_tiles(second.tiles(), first.tiles());
  EXPECT_TRUE(std::ranges::equal(first.tiles(), both.tiles()));
  EXPECT_THROW(add_tiles(second.tiles().first(1), first.tiles()), LogicError);
}

TEST(PartialMerge, BrokenPreconditionsAreNamed) {
  const auto clients = random_clients(2, 6, 20, DType::f32);
  const PartialMerge good = empty_like(clients);
  EXPECT_THROW(PartialMerge(-1, 3, {}, {}), LogicError);
  const auto refused = [&](auto change) {
    PackedMatrix matrix = clients[0];
    change(matrix);
    PartialMerge merge = good;
    EXPECT_THROW(merge.add(matrix), LogicError);
  };
  refused([](PackedMatrix& m) { std::swap(m.rows, m.cols); });
  refused([](PackedMatrix& m) { m.bits.pop_back(); });
  refused([](PackedMatrix& m) { m.values.pop_back(); });
  refused([](PackedMatrix& m) { m.bits[0] ^= 1; });
  const float too_large[] = {1e30F}, not_a_number[] = {std::nanf("")};
  const std::uint8_t flag[] = {1};
  PartialMerge single(1, 1, FixedPoint::covering(1.0F, 1), {});
  EXPECT_THROW(single.add(wire::pack(1, 1, DType::f32, too_large, flag)), LogicError);
  EXPECT_THROW(single.add(wire::pack(1, 1, DType::f32, not_a_number, flag)), LogicError);

  PartialMerge merge = good;
  EXPECT_THROW(merge.add(merge), LogicError);
  EXPECT_THROW(merge.add(PartialMerge(20, 6, good.scale(), good.diagonal_scale())), LogicError);
  EXPECT_THROW(merge.add(PartialMerge(6, 20, {good.scale().q + 1}, good.diagonal_scale())), LogicError);
  EXPECT_THROW(merge.add(PartialMerge(6, 20, good.scale(), {good.diagonal_scale().q + 1})), LogicError);
  EXPECT_THROW(merge.add_diagonal(std::vector<float>(19)), LogicError);
  EXPECT_THROW(merge.add_diagonal(std::vector<float>(20, -1.0F)), LogicError);
  const PackedMatrix* const null[] = {nullptr};
  EXPECT_THROW(merge.add(null), LogicError);
}

}  // namespace
}  // namespace fedspallm::aggregate
