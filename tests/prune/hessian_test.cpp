// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/prune/hessian.hpp"

#include "fedspallm/base/error.hpp"

#include "prune_support.hpp"
#include <cmath>

namespace fedspallm::prune {
namespace {

class HessianTest : public OnBothBackends {};
INSTANTIATE_TEST_SUITE_P(Backends, HessianTest, testing::ValuesIn(test::backend_names()));

TEST_P(HessianTest, diagonal_is_two_over_sequences_times_the_sum_of_squares) {
  Hessian hessian(*backend_, 2, 4);
  hessian.add(tensor_of(*backend_, 3, 2, {1, 2, 3, 4, 5, 6}));
  hessian.add(tensor_of(*backend_, 1, 2, {7, 8}));
  EXPECT_EQ(hessian.diagonal(), (std::vector<float>{42.0F, 60.0F}));  // (1+9+25+49)/2, (4+16+36+64)/2
}

TEST_P(HessianTest, factor_inverts_the_damped_hessian) {
  const std::int64_t columns = 5;
  Hessian hessian(*backend_, columns, 1);
  const std::vector<float> x = random_values(20 * columns, 3);
  hessian.add(tensor_of(*backend_, 20, columns, x));
  const auto factor = factorize(*backend_, hessian, 0.01, config::Count::exact);
  ASSERT_TRUE(factor.has_value());
  EXPECT_EQ(factor->damping_steps, 0);
  const std::vector<float> diagonal = hessian.diagonal();
  double mean = 0;
  for (const float value : diagonal) mean += value / 5.0;
  const std::vector<float> u = values_of(*backend_, factor->upper);
  for (std::int64_t i = 0; i < columns; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      double product = 0;  // (H + lambda I) U^T U = I
      for (std::int64_t k = 0; k < columns; ++k) {
        double h = 0, inverse = 0;
        for (std::int64_t t = 0; t < 20; ++t) h += 2.0 * x[t * columns + i] * x[t * columns + k];
        if (i == k) h += 0.01 * mean;
        for (std::int64_t m = 0; m < columns; ++m) inverse += double{u[m * columns + k]} * u[m * columns + j];
        product += h * inverse;
      }
      EXPECT_NEAR(product, i == j ? 1.0 : 0.0, 1e-4);
    }
  }
}

TEST_P(HessianTest, dead_columns_get_an_infinite_pivot_when_exact_and_one_when_published) {
  Hessian hessian(*backend_, 3, 1);
  hessian.add(tensor_of(*backend_, 4, 3, {1, 0, 2, 3, 0, 1, -1, 0, 2, 2, 0, 5}));
  const auto exact = factorize(*backend_, hessian, 0.01, config::Count::exact);
  ASSERT_TRUE(exact.has_value());
  EXPECT_EQ(exact->dead, std::vector<std::int64_t>{1});
  EXPECT_TRUE(std::isinf(exact->diagonal[1]));
  const auto published = factorize(*backend_, hessian, 0.01, config::Count::published);
  ASSERT_TRUE(published.has_value());
  const double lambda = 0.01 * (30.0 + 1.0 + 68.0) / 3.0;
  EXPECT_NEAR(published->diagonal[1], 1.0 / std::sqrt(1.0 + lambda), 1e-5);
}

TEST_P(HessianTest, damping_is_raised_where_fewer_tokens_than_columns_leave_the_hessian_singular) {
  const std::int64_t columns = 48;
  Hessian hessian(*backend_, columns, 1);
  hessian.add(tensor_of(*backend_, 1, columns, std::vector<float>(columns, 1000.0F)));  // rank one
  const auto factor = factorize(*backend_, hessian, 1e-9, config::Count::exact);  // below fp32's resolution
  ASSERT_TRUE(factor.has_value());
  EXPECT_GE(factor->damping_steps, 1);
  EXPECT_LE(factor->damping_steps, kMaximumDampingSteps);
  EXPECT_NEAR(factor->damping, 1e-9 * std::pow(10.0, factor->damping_steps), 1e-12);
}

TEST_P(HessianTest, gives_up_after_five_steps) {
  Hessian hessian(*backend_, 4, 1);
  hessian.add(tensor_of(*backend_, 1, 4, {1, 1, 1, 1}));
  EXPECT_FALSE(factorize(*backend_, hessian, 1e-30, config::Count::exact).has_value());
}

TEST_P(HessianTest, without_any_input_every_column_is_dead_and_the_factor_exists) {
  const Hessian nothing(*backend_, 4, 1);
  const auto exact = factorize(*backend_, nothing, 0.01, config::Count::exact);
  ASSERT_TRUE(exact.has_value());
  EXPECT_EQ(exact->dead.size(), 4U);
  EXPECT_EQ(exact->damping_steps, 0);
  for (const float pivot : exact->diagonal) EXPECT_TRUE(std::isinf(pivot));
  EXPECT_TRUE(factorize(*backend_, nothing, 0.01, config::Count::published).has_value());
}

TEST_P(HessianTest, refuses_no_columns_and_no_sequences) {
  EXPECT_THROW(Hessian(*backend_, 0, 1), LogicError);
  EXPECT_THROW(Hessian(*backend_, 1, 0), LogicError);
}

}  // namespace
}  // namespace fedspallm::prune
