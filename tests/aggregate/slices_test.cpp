// SPDX-License-Identifier: Apache-2.0
// Owners who each finish a slice, summing over each other, give finish()'s result bit for bit. They are
// threads here.
#include "fedspallm/aggregate/slices.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "support/merged_matrix.hpp"
#include "wire/random_matrix.hpp"
#include <algorithm>
#include <barrier>
#include <mutex>
#include <thread>

namespace fedspallm::aggregate {
namespace {

using wire::PackedMatrix;

/// Sums over the threads of one process, and the lengths that each of them summed.
class Together {
 public:
  explicit Together(int owners) : lengths_(static_cast<std::size_t>(owners)), barrier_(owners) {}

  [[nodiscard]] SumOverOwners of(int owner) {
    return [this, owner](std::span<std::int64_t> values) {
      lengths_[static_cast<std::size_t>(owner)].push_back(std::ssize(values));
      {
        const std::lock_guard lock(mutex_);
        sums_.resize(std::max(sums_.size(), values.size()));
        for (std::size_t i = 0; i < values.size(); ++i) sums_[i] += values[i];
      }
      barrier_.arrive_and_wait();
      std::copy_n(sums_.begin(), values.size(), values.begin());
      barrier_.arrive_and_wait();
      if (owner == 0) sums_.clear();
      barrier_.arrive_and_wait();
    };
  }
  [[nodiscard]] const std::vector<std::vector<std::int64_t>>& lengths() const { return lengths_; }

 private:
  std::vector<std::vector<std::int64_t>> lengths_;
  std::mutex mutex_;
  std::vector<std::int64_t> sums_;
  std::barrier<> barrier_;
};

struct Input {
  std::vector<PackedMatrix> clients;
  FixedPoint scale;
  std::vector<std::int64_t> diagonal;
  [[nodiscard]] std::int64_t rows() const { return clients.front().rows; }
  [[nodiscard]] std::int64_t cols() const { return clients.front().cols; }
  [[nodiscard]] std::int64_t count() const { return std::ssize(clients); }
};

Input input_of(std::vector<PackedMatrix> clients) {
  Input input{.clients = std::move(clients), .scale = {}, .diagonal = {}};
  float largest = 0;
  for (const PackedMatrix& client : input.clients) largest = std::max(largest, largest_magnitude(client));
  input.scale = FixedPoint::covering(largest, input.count());
  for (std::int64_t c = 0; c < input.cols(); ++c) input.diagonal.push_back((c * 7919) % 13 << 20);
  return input;
}

Input random_input(std::int64_t clients, std::int64_t rows, std::int64_t cols, double density, DType dtype) {
  std::vector<PackedMatrix> matrices;
  for (std::int64_t i = 0; i < clients; ++i)
    matrices.push_back(test::random_packed(static_cast<std::uint32_t>(700 + i), rows, cols, density, dtype));
  return input_of(std::move(matrices));
}

MergedMatrix at_the_root(const Input& input, const MergeRules& rules, DType dtype) {
  PartialMerge merge(input.rows(), input.cols(), input.scale, {-20});
  for (const PackedMatrix& client : input.clients) merge.add(client);
  return finish(merge, input.count(), rules, dtype, input.diagonal);
}

/// What one owner does: its slice of each client's matrix, added and finished.
MergedMatrix own_part(const Input& input, const MergeRules& rules, DType dtype, const SlicePlace& place,
                      const SumOverOwners& sum) {
  const Slice own = slice_of(place.rows, place.cols, rules.group, place.owner, place.owners);
  PartialMerge merge(own.size(), 1, input.scale, {-20});
  for (const PackedMatrix& client : input.clients) {
    std::int64_t value = wire::count_mask_bits(
        std::span(client.bits)
            .first(static_cast<std::size_t>(std::min(own.begin / 64, std::ssize(client.bits)))));
    merge.add(wire::slice(client, own.begin, own.end, value));
  }
  return finish_slice(merge, place, input.count(), rules, dtype, input.diagonal, sum);
}

MergedMatrix by_owners(const Input& input, const MergeRules& rules, DType dtype, int owners) {
  Together together(owners);
  std::vector<MergedMatrix> parts(static_cast<std::size_t>(owners));
  {
    std::vector<std::jthread> threads;
    for (int owner = 0; owner < owners; ++owner)
      threads.emplace_back([&, owner] {
        const SlicePlace place{input.rows(), input.cols(), owner, owners};
        parts[static_cast<std::size_t>(owner)] = own_part(input, rules, dtype, place, together.of(owner));
      });
  }
  for (const auto& lengths : together.lengths())
    EXPECT_EQ(lengths, sums_of_finishing(rules, input.count(), owners));
  return join_slices(input.rows(), input.cols(), std::move(parts));
}

void expect_the_same(const Input& input, const MergeRules& rules, DType dtype, int owners) {
  SCOPED_TRACE(testing::Message() << owners << " owners, " << input.rows() << " x " << input.cols() << " "
                                  << name_of(dtype) << ", " << input.count() << " clients, tie "
                                  << static_cast<int>(rules.tie) << ", s " << rules.sparsity << ", "
                                  << rules.keep << ":" << rules.group);
  test::expect_same(by_owners(input, rules, dtype, owners), at_the_root(input, rules, dtype));
}

constexpr TieRule kTies[] = {TieRule::score, TieRule::magnitude, TieRule::index};

TEST(Slices, CoverAMatrixInWholeTilesAndGroups) {
  const std::pair<std::int64_t, std::int64_t> shapes[] = {{0, 0},  {0, 5},  {1, 1},   {1, 64},
                                                          {1, 65}, {7, 45}, {90, 280}};
  for (const auto& [rows, cols] : shapes)
    for (const int group : {0, 4, 5, 40})
      for (int owners = 1; owners <= 17; ++owners) {
        std::int64_t end = 0, smallest = rows * cols, largest = 0;
        for (int owner = 0; owner < owners; ++owner) {
          const Slice slice = slice_of(rows, cols, group, owner, owners);
          EXPECT_EQ(slice.begin, end);
          EXPECT_TRUE(slice.begin % 64 == 0 || slice.size() == 0);
          EXPECT_TRUE(group == 0 || slice.size() == 0 || slice.begin % group == 0);
          smallest = std::min(smallest, slice.size());
          largest = std::max(largest, slice.size());
          end = slice.end;
        }
        EXPECT_EQ(end, rows * cols);
        EXPECT_LE(largest - smallest, 2 * (group == 0 || group == 4 ? 64 : 320)) << "equal shares";
      }
}

TEST(Slices, GiveTheSameBitsForAnyNumberOfOwners) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (const std::int64_t clients : {1, 3, 8}) {
      const Input input = random_input(clients, 37, 45, 0.5, dtype);  // 26 tiles and a half
      for (const TieRule tie : kTies)
        for (const double sparsity : {0.0, 0.4, 0.55, 1.0})
          for (const int owners : {1, 2, 3, 7, 16})
            expect_the_same(input, {.tie = tie, .sparsity = sparsity}, dtype, owners);
      expect_the_same(input, {.averaging = Averaging::mean}, dtype, 4);
      expect_the_same(input, {.averaging = Averaging::mean, .expand = false}, dtype, 3);
    }
}

TEST(Slices, GiveTheSameBitsInGroups) {
  const std::pair<int, int> patterns[] = {{2, 4}, {4, 8}, {4, 4}, {3, 5}, {7, 40}, {60, 120}};
  for (const std::int64_t clients : {1, 5})
    for (const auto& [keep, group] : patterns)
      for (const TieRule tie : kTies)
        for (const int owners : {2, 5, 16}) {
          const Input input = random_input(clients, 9, 240, 0.8, DType::bf16);
          expect_the_same(input, {.tie = tie, .keep = keep, .group = group}, DType::bf16, owners);
        }
}

TEST(Slices, MayBeEmpty) {
  const std::pair<std::int64_t, std::int64_t> shapes[] = {{0, 4}, {4, 0}, {1, 1}, {1, 64}, {1, 65}, {2, 100}};
  for (const auto& [rows, cols] : shapes)
    for (const TieRule tie : kTies)
      for (const int owners : {2, 5, 16})
        expect_the_same(random_input(2, rows, cols, 0.5, DType::f16), {.tie = tie}, DType::f16, owners);
}

TEST(Slices, MoreCommonZerosThanTheTargetDropNothing) {
  const Input input = random_input(2, 40, 30, 0.3, DType::f32);
  expect_the_same(input, {.tie = TieRule::magnitude, .sparsity = 0.25}, DType::f32, 3);
  expect_the_same(input, {.tie = TieRule::index, .keep = 5, .group = 6}, DType::f32, 3);
}

TEST(Slices, SettleEqualKeysByIndexAcrossOwners) {
  const std::int64_t rows = 60, cols = 70;
  std::vector<float> values(static_cast<std::size_t>(rows * cols), -0.75F);
  const std::vector<std::uint8_t> kept(values.size(), 1);
  for (const bool one_odd : {false, true}) {
    if (one_odd) values[1234] = 0.5F;
    Input input = input_of({wire::pack(rows, cols, DType::bf16, values, kept),
                            wire::pack(rows, cols, DType::bf16, values, kept)});
    std::fill(input.diagonal.begin(), input.diagonal.end(), 5);
    for (const TieRule tie : kTies)
      for (const double sparsity : {0.01, 0.333, 0.5, 0.99})
        for (const int owners : {2, 3, 16})
          expect_the_same(input, {.tie = tie, .sparsity = sparsity}, DType::bf16, owners);
  }
}

TEST(Slices, AreLookedAtInFullWhereASampleMisleads) {
  // So many tiles that levels are guessed from a sample, which is unlike the others in each slice.
  const std::int64_t rows = 700, cols = 128;
  std::vector<PackedMatrix> clients;
  for (std::uint32_t client = 0; client < 3; ++client) {
    test::DenseMatrix dense = test::random_dense(50 + client, rows * cols, 0.5, DType::f32);
    for (std::size_t i = 0; i < dense.values.size(); ++i) {
      const std::size_t tile = i / 64;
      if (tile % 16 == tile / 16 * 5 % 16) dense.kept[i] = 1;
    }
    clients.push_back(wire::pack(rows, cols, DType::f32, dense.values, dense.kept));
  }
  const Input input = input_of(std::move(clients));
  for (const TieRule tie : kTies)
    for (const double sparsity : {0.2, 0.5, 0.86})
      for (const int owners : {2, 3})
        expect_the_same(input, {.tie = tie, .sparsity = sparsity}, DType::f32, owners);
}

TEST(Slices, BrokenPreconditionsAreNamed) {
  const SumOverOwners nothing = [](std::span<std::int64_t>) {};
  const PartialMerge slice(64, 1, {0}, {0});
  EXPECT_THROW((void)slice_of(1, 1, 0, 1, 1), LogicError);
  EXPECT_THROW((void)slice_of(1, 1, -1, 0, 1), LogicError);
  EXPECT_THROW((void)finish_slice(slice, {1, 65, 0, 1}, 1, {.tie = TieRule::index}, DType::f32, {}, nothing),
               LogicError);
  EXPECT_THROW((void)finish_slice(slice, {1, 64, 0, 1}, 1, {.tie = TieRule::index}, DType::f32, {}, {}),
               LogicError);
  EXPECT_THROW((void)join_slices(1, 1, {}), LogicError);
  std::vector<MergedMatrix> one(1);
  EXPECT_THROW((void)join_slices(1, 1, std::move(one)), LogicError);
}

TEST(Slices, AFailingSumEndsTheWork) {
  const SumOverOwners lost = [](std::span<std::int64_t>) { throw PeerError("lost"); };
  const PartialMerge slice(64, 1, {0}, {0});
  EXPECT_THROW((void)finish_slice(slice, {1, 64, 0, 1}, 1, {.tie = TieRule::index}, DType::f32, {}, lost),
               PeerError);
}

}  // namespace
}  // namespace fedspallm::aggregate
