// SPDX-License-Identifier: Apache-2.0
// Properties of selection: counts are exact whatever the sparsity, the ties and the numbers.
#include "fedspallm/base/counts.hpp"

#include <gtest/gtest.h>

#include "cases.hpp"
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace fedspallm::test {
namespace {

using backend::Backend;
using backend::Element;
using backend::Tensor;

class Selection : public testing::Test {
 protected:
  std::vector<std::uint8_t> select(const std::vector<float>& scores, std::int64_t cols, std::int64_t count) {
    const auto rows = static_cast<std::int64_t>(scores.size()) / cols;
    const Tensor score = backend_->allocate(rows, cols);
    backend_->copy_in(std::span<const float>(scores), score);
    const Tensor mask = backend_->allocate(rows, cols, Element::u8);
    backend_->prune().select_smallest(score, count, mask);
    std::vector<std::uint8_t> result(scores.size());
    backend_->copy_out(mask, std::span<std::uint8_t>(result));
    return result;
  }
  /// What the rule says: sort by (score, index), drop the first `count`.
  static std::vector<std::uint8_t> expected(const std::vector<float>& scores, std::int64_t count) {
    std::vector<std::size_t> order(scores.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
    std::vector<std::uint8_t> mask(scores.size(), 1);
    for (std::int64_t i = 0; i < count; ++i) mask[order[static_cast<std::size_t>(i)]] = 0;
    return mask;
  }
  static std::int64_t zeros(const std::vector<std::uint8_t>& mask) {
    return std::count(mask.begin(), mask.end(), 0);
  }

  std::unique_ptr<Backend> backend_ = backend::make_cpu_backend(2);
};

TEST_F(Selection, CountsAreExactForAnySparsityAndAnyTies) {
  for (const float levels : {0.0F, 1.0F, 3.0F, 100.0F, 1e9F}) {  // 0: all scores equal
    std::vector<float> scores = uniform(7, static_cast<std::uint32_t>(levels), 60 * 77);
    for (float& score : scores) score = std::floor(std::fabs(score) * levels);
    for (const double sparsity : {0.0, 1e-9, 0.1, 0.25, 0.5, 0.55, 0.7, 0.999, 1.0}) {
      const std::int64_t count = exact_count(sparsity, static_cast<std::int64_t>(scores.size()));
      const auto mask = select(scores, 77, count);
      EXPECT_EQ(zeros(mask), count) << levels << " levels, sparsity " << sparsity;
      EXPECT_EQ(mask, expected(scores, count)) << levels << " levels, sparsity " << sparsity;
    }
  }
}

TEST_F(Selection, TiesThatCrossTheUnitsOfThreadsStayInRowMajorOrder) {
  std::vector<float> scores(100000, 2.0F);  // several units, one value
  scores[70000] = 1.0F;
  for (const std::int64_t count : {1, 2, 32768, 32769, 65537, 70001, 99999, 100000})
    EXPECT_EQ(select(scores, 1000, count), expected(scores, count)) << count;
}

TEST_F(Selection, OrdersNegativeSubnormalHugeAndZeroScores) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  const float huge = std::numeric_limits<float>::max();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> scores{huge,  -1.0F, tiny,  0.0F,      -0.0F,    infinity,
                                  -tiny, 1.0F,  -huge, -infinity, 2 * tiny, 1.0F};
  for (std::int64_t count = 0; count <= 12; ++count)
    EXPECT_EQ(select(scores, 12, count), expected(scores, count)) << count;
}

TEST_F(Selection, WhatWasDroppedBeforeGoesFirst) {
  const std::vector<float> scores = uniform(3, 0, 4000);
  std::vector<float> positive(scores.size());
  std::vector<std::uint8_t> before(scores.size(), 1);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    positive[i] = scores[i] * scores[i];
    if (i % 3 == 0) before[i] = 0;
  }
  const Tensor score = backend_->allocate(40, 100);
  backend_->copy_in(std::span<const float>(positive), score);
  const Tensor previous = backend_->allocate(40, 100, Element::u8);
  backend_->copy_in(std::span<const std::uint8_t>(before), previous);
  backend_->prune().prefer_dropped(previous, score);
  const Tensor mask = backend_->allocate(40, 100, Element::u8);
  backend_->prune().select_smallest(score, 2000, mask);
  std::vector<std::uint8_t> result(scores.size());
  backend_->copy_out(mask, std::span<std::uint8_t>(result));
  EXPECT_EQ(zeros(result), 2000);
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (before[i] == 0) {
      EXPECT_EQ(result[i], 0) << i;
    }
  }
}

TEST_F(Selection, RowsDropExactlyTheirOwnCounts) {
  const std::int64_t rows = 33;
  const std::int64_t cols = 129;
  std::vector<float> scores = uniform(9, 0, rows * cols);
  for (float& score : scores) score = std::floor(score * 5.0F);
  const Tensor score = backend_->allocate(rows, cols);
  backend_->copy_in(std::span<const float>(scores), score);
  const Tensor mask = backend_->allocate(rows, cols, Element::u8);
  std::vector<std::int64_t> counts;
  for (std::int64_t row = 0; row < rows; ++row)
    counts.push_back(exact_count(0.55, (row + 1) * cols) - exact_count(0.55, row * cols));
  backend_->prune().select_smallest_per_row(score, counts, mask);
  std::vector<std::uint8_t> result(scores.size());
  backend_->copy_out(mask, std::span<std::uint8_t>(result));
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto first = result.begin() + row * cols;
    EXPECT_EQ(std::count(first, first + cols, 0), counts[static_cast<std::size_t>(row)]) << row;
  }
  EXPECT_EQ(zeros(result), exact_count(0.55, rows * cols));
}

TEST_F(Selection, GroupsKeepExactlyNOfEveryM) {
  std::vector<float> scores = uniform(11, 0, 64 * 96);
  for (float& score : scores) score = std::floor(score * 3.0F);
  const Tensor score = backend_->allocate(64, 96);
  backend_->copy_in(std::span<const float>(scores), score);
  const Tensor mask = backend_->allocate(64, 96, Element::u8);
  std::vector<std::uint8_t> result(scores.size());
  for (const int m : {1, 2, 4, 8, 12, 32}) {
    for (int keep = 0; keep <= m; ++keep) {
      backend_->prune().select_n_of_m(score, keep, m, mask);
      backend_->copy_out(mask, std::span<std::uint8_t>(result));
      for (std::size_t first = 0; first < result.size(); first += static_cast<std::size_t>(m))
        ASSERT_EQ(std::accumulate(result.begin() + static_cast<std::ptrdiff_t>(first),
                                  result.begin() + static_cast<std::ptrdiff_t>(first) + m, 0),
                  keep);
    }
  }
}

}  // namespace
}  // namespace fedspallm::test
