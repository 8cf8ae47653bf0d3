// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/thread_pool.hpp"

#include <gtest/gtest.h>

#include "plain_merge.hpp"
#include "wire/random_matrix.hpp"
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

namespace fedspallm::aggregate {
namespace {

using wire::PackedMatrix;

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};
constexpr TieRule kTies[] = {TieRule::score, TieRule::magnitude, TieRule::index};

/// Clients' matrices, their sum, and sums of diag(H) with equal columns among them.
struct Case {
  std::vector<PackedMatrix> clients;
  PartialMerge merge;
  std::vector<std::int64_t> diagonal;

  explicit Case(std::vector<PackedMatrix> matrices)
      : clients(std::move(matrices)),
        merge(clients.front().rows, clients.front().cols, scale_of(clients), {-20}) {
    for (const PackedMatrix& client : clients) merge.add(client);
    for (std::int64_t c = 0; c < clients.front().cols; ++c) diagonal.push_back((c * 7919) % 13 << 20);
  }
  static FixedPoint scale_of(const std::vector<PackedMatrix>& clients) {
    float largest = 0;
    for (const PackedMatrix& client : clients) largest = std::max(largest, largest_magnitude(client));
    return FixedPoint::covering(largest, std::ssize(clients));
  }
  [[nodiscard]] std::int64_t count() const { return std::ssize(clients); }
  [[nodiscard]] MergedMatrix finished(const MergeRules& rules, DType dtype,
                                      ThreadPool* pool = nullptr) const {
    return finish(merge, count(), rules, dtype, diagonal, pool);
  }
};

Case random_case(std::int64_t clients, std::int64_t rows, std::int64_t cols, double density, DType dtype) {
  std::vector<PackedMatrix> matrices;
  for (std::int64_t i = 0; i < clients; ++i)
    matrices.push_back(test::random_packed(static_cast<std::uint32_t>(300 + i), rows, cols, density, dtype));
  return Case(std::move(matrices));
}

void expect_as_defined(const Case& input, const MergeRules& rules, DType dtype, ThreadPool* pool = nullptr) {
  const MergedMatrix found = input.finished(rules, dtype, pool);
  const test::PlainResult wanted =
      test::plain_merge(input.clients, input.merge.scale(), rules, dtype, input.diagonal);
  const auto size = wanted.values.size();
  ASSERT_EQ(found.votes, wanted.votes);
  std::vector<float> dense(size);
  unpack(found.matrix, dense);
  std::vector<std::int64_t> histogram(static_cast<std::size_t>(input.count()) + 1, 0);
  std::int64_t kept = 0, kept_zeros = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const bool is_kept = ((found.matrix.bits[i / 64] >> (i % 64)) & 1U) != 0;
    ASSERT_EQ(is_kept, wanted.kept[i]) << "weight " << i;
    ASSERT_EQ(dense[i], wanted.values[i]) << "weight " << i;
    ++histogram[wanted.votes[i]];
    kept += is_kept ? 1 : 0;
    kept_zeros += is_kept && wanted.values[i] == 0 ? 1 : 0;
  }
  EXPECT_EQ(found.histogram, histogram);
  EXPECT_EQ(found.common_zeros, histogram.back());
  EXPECT_EQ(found.expanded, wanted.expanded);
  EXPECT_EQ(found.matrix.kept, kept);
  EXPECT_EQ(found.kept_zeros, kept_zeros);
  EXPECT_EQ(found.matrix.dtype, dtype);
  if (!rules.expand) {
    EXPECT_EQ(found.target, -1);
    EXPECT_FALSE(found.above_target);
  } else if (rules.group == 0) {
    EXPECT_EQ(found.target, exact_count(rules.sparsity, found.matrix.size()));
    EXPECT_EQ(found.above_target, found.common_zeros > found.target);
    EXPECT_EQ(found.matrix.dropped(), std::max(found.target, found.common_zeros));
  } else {
    EXPECT_EQ(found.target, found.matrix.size() / rules.group * (rules.group - rules.keep));
  }
}

TEST(Finish, EqualsThePlainDefinition) {
  for (const DType dtype : kTypes)
    for (const std::int64_t clients : {1, 2, 3, 8, 64}) {
      const Case input = random_case(clients, 7, 45, 0.5, dtype);
      for (const TieRule tie : kTies)
        for (const double sparsity : {0.0, 0.333, 0.5, 0.55, 1.0})
          for (const Averaging averaging : {Averaging::l0, Averaging::mean}) {
            SCOPED_TRACE(testing::Message()
                         << name_of(dtype) << " clients " << clients << " tie " << static_cast<int>(tie)
                         << " s " << sparsity << " averaging " << static_cast<int>(averaging));
            expect_as_defined(
                input, {.averaging = averaging, .expand = true, .tie = tie, .sparsity = sparsity}, dtype);
          }
      expect_as_defined(input, {.expand = false}, dtype);
    }
}

TEST(Finish, EqualsThePlainDefinitionInEveryKernelSetAndForAnyNumberOfThreads) {
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (!supported(isa)) continue;
    ASSERT_EQ(setenv("FEDSPALLM_ISA", std::string(name_of(isa)).c_str(), 1), 0);
    for (const DType dtype : kTypes) {
      const Case input = random_case(4, 170, 400, 0.5, dtype);  // 68,000 weights: 2 units
      for (const TieRule tie : kTies)
        for (const int threads : {1, 3}) {
          ThreadPool pool(threads);
          expect_as_defined(input, {.tie = tie, .sparsity = 0.5}, dtype, &pool);
        }
      ThreadPool pool(3);
      expect_as_defined(input, {.sparsity = 0.5, .keep = 2, .group = 4}, dtype, &pool);
      expect_as_defined(input, {.sparsity = 0.6, .keep = 2, .group = 5}, dtype, &pool);
    }
  }
  unsetenv("FEDSPALLM_ISA");
}

TEST(Finish, ExpandsTheGroupsOfNMPatterns) {
  const std::pair<int, int> patterns[] = {{2, 4}, {1, 4}, {4, 8}, {1, 2}, {4, 4}, {3, 5}, {7, 40}, {60, 120}};
  for (const std::int64_t clients : {1, 3, 8})
    for (const auto& [keep, group] : patterns)
      for (const TieRule tie : kTies) {
        const Case input = random_case(clients, 5, 240, 0.8, DType::f32);
        expect_as_defined(input, {.tie = tie, .sparsity = 0.5, .keep = keep, .group = group}, DType::f32);
      }
}

TEST(Finish, GroupsWithMoreCommonZerosAreReportedAndLeftAlone) {
  const std::vector<float> values(16, 1.0F);
  const std::vector<std::uint8_t> kept = {1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1};
  const Case input({wire::pack(2, 8, DType::f32, values, kept)});
  const MergedMatrix found = input.finished({.tie = TieRule::index, .keep = 2, .group = 4}, DType::f32);
  EXPECT_TRUE(found.above_target);
  EXPECT_EQ(found.matrix.bits, (std::vector<std::uint64_t>{0b1100'0011'1100'0001}));
  EXPECT_EQ(found.expanded, 3);
  EXPECT_EQ(found.target, 8);
}

TEST(Finish, MoreCommonZerosThanTheTargetDropNothing) {
  const Case input = random_case(2, 20, 30, 0.3, DType::f32);  // about half of the weights are common zeros
  const MergedMatrix found = input.finished({.tie = TieRule::magnitude, .sparsity = 0.25}, DType::f32);
  EXPECT_TRUE(found.above_target);
  EXPECT_EQ(found.expanded, 0);
  EXPECT_EQ(found.target, 150);
  EXPECT_GT(found.common_zeros, 150);
  EXPECT_EQ(found.matrix.dropped(), found.common_zeros);
}

TEST(Finish, AllValuesTied) {
  // One value, one number of votes, one score: what remains is the row-major index, over many units and key
  // digits.
  for (const TieRule tie : kTies)
    for (const int threads : {1, 2}) {
      const std::int64_t rows = 300, cols = 300, size = rows * cols;
      const std::vector<float> values(static_cast<std::size_t>(size), -0.75F);
      const std::vector<std::uint8_t> kept(values.size(), 1);
      Case input({wire::pack(rows, cols, DType::bf16, values, kept),
                  wire::pack(rows, cols, DType::bf16, values, kept)});
      std::fill(input.diagonal.begin(), input.diagonal.end(), 5);
      ThreadPool pool(threads);
      const MergedMatrix found = input.finished({.tie = tie, .sparsity = 0.333}, DType::bf16, &pool);
      const std::int64_t target = exact_count(0.333, size);
      ASSERT_EQ(found.matrix.dropped(), target);
      for (std::int64_t i = 0; i < size; ++i)
        ASSERT_EQ((found.matrix.bits[static_cast<std::size_t>(i / 64)] >> (i % 64)) & 1U,
                  i >= target ? 1U : 0U)
            << i;
    }
}

TEST(Finish, FewDistinctKeysAreToldApartInAnyDigit) {
  // Values that differ in the last bits only, so that the first digits of the keys are shared by all of them.
  const std::int64_t rows = 250, cols = 200;
  std::vector<float> values(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = 1.0F + std::ldexp(static_cast<float>((i * 7919) % 5), -23);
  const std::vector<std::uint8_t> kept(values.size(), 1);
  Case input({wire::pack(rows, cols, DType::f32, values, kept)});
  std::fill(input.diagonal.begin(), input.diagonal.end(), 3);
  for (const TieRule tie : kTies)
    for (const double sparsity : {0.2, 0.31, 0.5, 0.9})
      expect_as_defined(input, {.tie = tie, .sparsity = sparsity}, DType::f32);
}

/// A case of many tiles in which every 16th tile or so (whichever a sample would look at) is unlike the
/// others.
Case misleading_case(bool in_votes) {
  const std::int64_t rows = 400, cols = 128, size = rows * cols;  // 800 tiles
  std::vector<PackedMatrix> clients;
  for (std::uint32_t client = 0; client < 3; ++client) {
    test::DenseMatrix dense = test::random_dense(40 + client, size, 0.5, DType::f32);
    for (std::size_t i = 0; i < dense.values.size(); ++i) {
      const std::size_t tile = i / 64;
      const bool sampled = tile % 16 == tile / 16 * 5 % 16;
      if (sampled && in_votes) dense.kept[i] = 1;
      if (sampled && !in_votes) dense.values[i] *= 0x1p-10F;
    }
    clients.push_back(wire::pack(rows, cols, DType::f32, dense.values, dense.kept));
  }
  return Case(std::move(clients));
}

TEST(Finish, ASampleThatMisleadsCostsTimeOnly) {
  for (const bool in_votes : {true, false}) {
    const Case input = misleading_case(in_votes);
    for (const TieRule tie : kTies)
      for (const double sparsity : {0.2, 0.4, 0.5, 0.6, 0.86})
        for (const int threads : {1, 2}) {
          ThreadPool pool(threads);
          expect_as_defined(input, {.tie = tie, .sparsity = sparsity}, DType::f32, &pool);
        }
  }
}

TEST(Finish, OneClientAtTheTargetComesBackAsItWasSent) {
  for (const DType dtype : kTypes)
    for (const Averaging averaging : {Averaging::l0, Averaging::mean}) {
      const Case input = random_case(1, 24, 50, 0.5, dtype);
      const PackedMatrix& sent = input.clients.front();
      const double sparsity = static_cast<double>(sent.dropped()) / static_cast<double>(sent.size());
      const MergedMatrix found = input.finished({.averaging = averaging, .sparsity = sparsity}, dtype);
      EXPECT_EQ(found.matrix.bits, sent.bits);
      EXPECT_EQ(found.matrix.values, sent.values);
      EXPECT_EQ(found.expanded, 0);
      EXPECT_FALSE(found.above_target);
    }
}

TEST(Finish, EqualClientsComeBackAsOne) {
  const PackedMatrix one = test::random_packed(77, 24, 50, 0.5, DType::bf16);
  const Case input(std::vector<PackedMatrix>(7, one));
  const MergedMatrix found = input.finished({.expand = false}, DType::bf16);
  EXPECT_EQ(found.matrix.bits, one.bits);
  EXPECT_EQ(found.matrix.values, one.values);
}

TEST(Finish, KeptZerosStayKept) {
  const float plus[] = {1.0F, 0.0F, 0.5F}, minus[] = {-1.0F, 0.0F, 0.5F};
  const std::uint8_t kept[] = {1, 1, 1};
  const Case input({wire::pack(1, 3, DType::f32, plus, kept), wire::pack(1, 3, DType::f32, minus, kept)});
  const MergedMatrix found = input.finished({.sparsity = 0}, DType::f32);
  EXPECT_EQ(found.matrix.kept, 3);
  EXPECT_EQ(found.kept_zeros, 2);
  EXPECT_EQ(found.common_zeros, 0);
}

TEST(Finish, EdgeShapesWork) {
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{0, 0}, {0, 4}, {4, 0}, {1, 1}, {1, 64}, {1, 65}}) {
    const Case input = random_case(2, rows, cols, 0.5, DType::f16);
    for (const TieRule tie : kTies) expect_as_defined(input, {.tie = tie, .sparsity = 0.5}, DType::f16);
    for (const double sparsity : {0.0, 1.0}) expect_as_defined(input, {.sparsity = sparsity}, DType::f16);
  }
}

TEST(Finish, ATreeOfPartialMergesFinishesToTheSameBytes) {
  const Case input = random_case(6, 40, 64, 0.5, DType::bf16);
  PartialMerge left(40, 64, input.merge.scale(), {-20}), right = left;
  for (std::size_t i = 0; i < input.clients.size(); ++i) (i % 2 == 0 ? left : right).add(input.clients[i]);
  right.add(left);
  const MergeRules rules{.sparsity = 0.5};
  const MergedMatrix a = input.finished(rules, DType::bf16),
                     b = finish(right, 6, rules, DType::bf16, input.diagonal);
  EXPECT_EQ(a.matrix.bits, b.matrix.bits);
  EXPECT_EQ(a.matrix.values, b.matrix.values);
  EXPECT_EQ(a.votes, b.votes);
}

TEST(Finish, BrokenPreconditionsAreNamed) {
  const Case input = random_case(3, 4, 10, 0.9, DType::f32);
  const auto refused = [&](std::int64_t clients, const MergeRules& rules,
                           std::span<const std::int64_t> diagonal) {
    EXPECT_THROW((void)finish(input.merge, clients, rules, DType::f32, diagonal), LogicError);
  };
  refused(0, {}, input.diagonal);
  refused(2, {}, input.diagonal);  // some weight was kept by 3
  refused(1 << 24, {}, input.diagonal);
  refused(3, {.sparsity = 1.5}, input.diagonal);
  refused(3, {.sparsity = -0.5}, input.diagonal);
  refused(3, {.keep = 2, .group = 4}, input.diagonal);  // 10 columns
  refused(3, {.keep = 0, .group = 5}, input.diagonal);
  refused(3, {.keep = 6, .group = 5}, input.diagonal);
  refused(3, {.keep = 6, .group = 0}, input.diagonal);
  refused(3, {}, {});
  std::vector<std::int64_t> negative(10, -1);
  refused(3, {}, negative);
  EXPECT_NO_THROW((void)finish(input.merge, 3, {.tie = TieRule::magnitude}, DType::f32, {}));
  EXPECT_NO_THROW((void)finish(input.merge, 3, {.expand = false}, DType::f32, {}));
}

}  // namespace
}  // namespace fedspallm::aggregate
