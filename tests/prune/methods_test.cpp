// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/prune/methods.hpp"

#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/error.hpp"

#include "prune_support.hpp"
#include <algorithm>
#include <cmath>
#include <numeric>

namespace fedspallm::prune {
namespace {

class MethodsTest : public OnBothBackends {
 protected:
  /// A factor from random activations.
  Factor factor_of(std::int64_t columns, config::Count count, std::int64_t tokens = 40) {
    Hessian hessian(*backend_, columns, 2);
    hessian.add(tensor_of(*backend_, tokens, columns, random_values(tokens * columns, 11)));
    diagonal_ = hessian.diagonal();
    return std::move(*factorize(*backend_, hessian, 0.01, count));
  }
  std::int64_t dropped(backend::View mask) {
    const auto values = mask_of(*backend_, mask);
    return std::count(values.begin(), values.end(), 0);
  }
  void expect_zeros_exactly_where_dropped(backend::View w, backend::View mask) {
    const auto weights = values_of(*backend_, w);
    const auto kept = mask_of(*backend_, mask);
    for (std::size_t i = 0; i < weights.size(); ++i) EXPECT_EQ(kept[i] == 0, weights[i] == 0.0F) << i;
  }
  std::vector<float> diagonal_;
};
INSTANTIATE_TEST_SUITE_P(Backends, MethodsTest, testing::ValuesIn(test::backend_names()));

struct Shape {
  std::int64_t rows, cols, block;
};
const std::vector<Shape> kShapes = {{1, 1, 128}, {1, 7, 4},      {5, 3, 128},
                                    {6, 20, 8},  {17, 130, 128}, {64, 96, 32}};

TEST_P(MethodsTest, sparsegpt_drops_exactly_ceil_s_d_for_any_sparsity) {
  for (const Shape& shape : kShapes) {
    const Factor factor = factor_of(shape.cols, config::Count::exact);
    for (const double sparsity : {0.0, 0.25, 1.0 / 3.0, 0.5, 0.55, 1.0}) {
      Settings settings{.sparsity = sparsity, .block_size = shape.block};
      MatrixPruner pruner(*backend_, settings);
      const std::vector<float> before = random_values(shape.rows * shape.cols, 5);
      const backend::Tensor w = tensor_of(*backend_, shape.rows, shape.cols, before);
      const backend::Tensor mask = backend_->allocate(shape.rows, shape.cols, backend::Element::u8);
      const double error = pruner.sparsegpt(w, factor, {}, mask);
      EXPECT_EQ(dropped(mask), exact_count(sparsity, shape.rows * shape.cols))
          << shape.rows << "x" << shape.cols << " " << sparsity;
      expect_zeros_exactly_where_dropped(w, mask);
      if (sparsity == 0.0) {
        EXPECT_EQ(values_of(*backend_, w), before);  // s = 0 changes no bit
        EXPECT_EQ(error, 0.0);
      }
    }
  }
}

TEST_P(MethodsTest, all_ties_still_give_the_exact_count) {
  const Factor factor = factor_of(12, config::Count::exact);
  MatrixPruner pruner(*backend_, {.method = config::Method::magnitude, .sparsity = 0.4});
  const backend::Tensor w = tensor_of(*backend_, 5, 12, std::vector<float>(60, 2.0F));
  const backend::Tensor mask = backend_->allocate(5, 12, backend::Element::u8);
  pruner.magnitude(w, {}, mask);
  const auto kept = mask_of(*backend_, mask);
  for (std::size_t i = 0; i < kept.size(); ++i)
    EXPECT_EQ(kept[i], i < 24 ? 0 : 1) << "lowest row-major index goes first";
}

TEST_P(MethodsTest, sparsegpt_compensates_better_than_dropping_the_same_weights_alone) {
  const std::int64_t rows = 16, cols = 32, tokens = 200;
  std::vector<float> x = random_values(tokens * cols, 11);
  const std::vector<float> shared =
      random_values(tokens, 12);  // correlated inputs: others can stand in for a dropped one
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += 2.0F * shared[i / cols];
  Hessian hessian(*backend_, cols, 2);
  hessian.add(tensor_of(*backend_, tokens, cols, x));
  const Factor factor = std::move(*factorize(*backend_, hessian, 0.01, config::Count::exact));
  const std::vector<float> before = random_values(rows * cols, 5);
  const backend::Tensor w = tensor_of(*backend_, rows, cols, before);
  const backend::Tensor mask = backend_->allocate(rows, cols, backend::Element::u8);
  MatrixPruner(*backend_, {.sparsity = 0.5, .block_size = 8}).sparsegpt(w, factor, {}, mask);
  const auto after = values_of(*backend_, w);
  const auto kept = mask_of(*backend_, mask);
  double with = 0, without = 0;  // sum of squared output errors
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t r = 0; r < rows; ++r) {
      double compensated = 0, masked = 0;
      for (std::int64_t c = 0; c < cols; ++c) {
        const double input = x[t * cols + c], dense = before[r * cols + c];
        compensated += input * (dense - after[r * cols + c]);
        masked += input * (dense - kept[r * cols + c] * dense);
      }
      with += compensated * compensated;
      without += masked * masked;
    }
  }
  EXPECT_LT(with, 0.9 * without);
}

TEST_P(MethodsTest, exact_drops_dead_inputs_first_and_leaves_their_other_weights_dense) {
  const std::int64_t rows = 8, cols = 4;
  std::vector<float> x = random_values(30 * cols, 2);
  for (std::int64_t t = 0; t < 30; ++t) x[t * cols + 2] = 0;
  Hessian hessian(*backend_, cols, 1);
  hessian.add(tensor_of(*backend_, 30, cols, x));
  const Factor factor = std::move(*factorize(*backend_, hessian, 0.01, config::Count::exact));
  std::vector<float> before = random_values(rows * cols, 5);
  for (std::int64_t r = 0; r < rows; ++r) before[r * cols + 2] = 100.0F;  // large, yet worth nothing
  const backend::Tensor w = tensor_of(*backend_, rows, cols, before);
  const backend::Tensor mask = backend_->allocate(rows, cols, backend::Element::u8);
  MatrixPruner(*backend_, {.sparsity = 0.125}).sparsegpt(w, factor, {}, mask);  // 4 of 32
  const auto kept = mask_of(*backend_, mask);
  for (std::int64_t r = 0; r < rows; ++r) EXPECT_EQ(kept[r * cols + 2], r < 4 ? 0 : 1);
  EXPECT_EQ(values_of(*backend_, w)[7 * cols + 2], 100.0F);
}

TEST_P(MethodsTest, n_of_m_keeps_n_in_every_group_for_every_method) {
  for (const config::Pattern pattern :
       {config::Pattern{2, 4}, config::Pattern{4, 8}, config::Pattern{1, 4}, config::Pattern{1, 1}}) {
    const std::int64_t rows = 7, cols = 40;
    Settings settings{.sparsity = 1.0 - static_cast<double>(pattern.keep) / pattern.group,
                      .pattern = pattern,
                      .block_size = 16};
    const Factor factor = factor_of(cols, config::Count::exact);
    for (const auto method : {config::Method::sparsegpt, config::Method::wanda, config::Method::magnitude,
                              config::Method::random}) {
      MatrixPruner pruner(*backend_, settings);
      const backend::Tensor w = tensor_of(*backend_, rows, cols, random_values(rows * cols, 9));
      const backend::Tensor mask = backend_->allocate(rows, cols, backend::Element::u8);
      switch (method) {
        case config::Method::sparsegpt:
          pruner.sparsegpt(w, factor, {}, mask);
          break;
        case config::Method::wanda:
          pruner.wanda(w, diagonal_, {}, mask);
          break;
        case config::Method::magnitude:
          pruner.magnitude(w, {}, mask);
          break;
        case config::Method::random:
          pruner.random(w, {.seed = 1, .use = RandomUse::random_pruning}, {}, mask);
          break;
      }
      const auto kept = mask_of(*backend_, mask);
      for (std::size_t first = 0; first < kept.size(); first += static_cast<std::size_t>(pattern.group))
        EXPECT_EQ(std::accumulate(kept.begin() + first, kept.begin() + first + pattern.group, 0),
                  pattern.keep);
      expect_zeros_exactly_where_dropped(w, mask);
    }
  }
}

TEST_P(MethodsTest, wanda_drops_row_by_row_by_weight_times_input_norm) {
  const backend::Tensor w = tensor_of(*backend_, 2, 4, {1, 4, 2, 3, -4, 1, 1, 2});
  const backend::Tensor mask = backend_->allocate(2, 4, backend::Element::u8);
  const std::vector<float> diagonal = {100.0F, 1.0F, 4.0F,
                                       1.0F};  // norms 10, 1, 2, 1: scores 10 4 4 3 | 40 1 2 2
  MatrixPruner(*backend_, {.method = config::Method::wanda, .sparsity = 0.5}).wanda(w, diagonal, {}, mask);
  EXPECT_EQ(mask_of(*backend_, mask), (std::vector<std::uint8_t>{1, 0, 1, 0, 1, 0, 0, 1}));
}

TEST_P(MethodsTest, dropped_stays_dropped_and_counts_first_in_later_rounds) {
  const std::int64_t rows = 9, cols = 24;
  const Factor factor = factor_of(cols, config::Count::exact);
  std::vector<std::uint8_t> before(rows * cols, 1);
  for (std::size_t i = 0; i < before.size(); i += 3) before[i] = 0;
  const backend::Tensor previous = backend_->allocate(rows, cols, backend::Element::u8);
  backend_->copy_in(std::span<const std::uint8_t>(before), previous);
  for (const double sparsity : {0.2, 0.4, 0.75}) {
    for (const auto method : {config::Method::sparsegpt, config::Method::wanda, config::Method::magnitude}) {
      MatrixPruner pruner(*backend_, {.sparsity = sparsity, .block_size = 8});
      std::vector<float> values = random_values(rows * cols, 21);
      for (std::size_t i = 0; i < values.size(); i += 3) values[i] = 0;
      const backend::Tensor w = tensor_of(*backend_, rows, cols, values);
      const backend::Tensor mask = backend_->allocate(rows, cols, backend::Element::u8);
      if (method == config::Method::sparsegpt) pruner.sparsegpt(w, factor, previous, mask);
      if (method == config::Method::wanda) pruner.wanda(w, diagonal_, previous, mask);
      if (method == config::Method::magnitude) pruner.magnitude(w, previous, mask);
      const auto kept = mask_of(*backend_, mask);
      for (std::size_t i = 0; i < kept.size(); i += 3) EXPECT_EQ(kept[i], 0) << i;
      EXPECT_EQ(dropped(mask), std::max<std::int64_t>(72, exact_count(sparsity, rows * cols)));
    }
  }
}

TEST_P(MethodsTest, published_count_drops_at_least_the_threshold_rank_plus_one_per_block) {
  const std::int64_t rows = 10, cols = 20;
  const Factor factor = factor_of(cols, config::Count::published);
  const backend::Tensor w = tensor_of(*backend_, rows, cols, random_values(rows * cols, 5));
  const backend::Tensor mask = backend_->allocate(rows, cols, backend::Element::u8);
  MatrixPruner(*backend_, {.sparsity = 0.5, .block_size = 10, .count = config::Count::published})
      .sparsegpt(w, factor, {}, mask);
  EXPECT_EQ(dropped(mask), 2 * 51);
}

TEST_P(MethodsTest, settings_that_cannot_be_are_refused) {
  for (const double sparsity : {-0.1, 1.1, std::nan("")})
    EXPECT_THROW(MatrixPruner(*backend_, {.sparsity = sparsity}), LogicError);
  EXPECT_THROW(MatrixPruner(*backend_, {.block_size = 0}), LogicError);
}

TEST_P(MethodsTest, random_depends_on_its_key_only) {
  const auto draw = [&](std::uint64_t seed) {
    const backend::Tensor w = tensor_of(*backend_, 8, 8, random_values(64, 1));
    const backend::Tensor mask = backend_->allocate(8, 8, backend::Element::u8);
    MatrixPruner(*backend_, {.method = config::Method::random, .sparsity = 0.5})
        .random(w, {.seed = seed, .use = RandomUse::random_pruning}, {}, mask);
    return mask_of(*backend_, mask);
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

}  // namespace
}  // namespace fedspallm::prune
