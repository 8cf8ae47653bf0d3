// SPDX-License-Identifier: Apache-2.0
// Stored non-zeros: nothing is lost on the way there and back, and products agree with dense ones.
#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "cases.hpp"
#include "support/backends.hpp"
#include <cmath>

namespace fedspallm::backend {
namespace {

class Csr : public testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] Tensor tensor(std::int64_t rows, std::int64_t cols, const std::vector<float>& values) {
    Tensor result = backend_->allocate(rows, cols);
    if (!values.empty()) backend_->copy_in(std::span<const float>(values), result);
    return result;
  }
  [[nodiscard]] std::vector<float> host(const View& view) {
    std::vector<float> values(static_cast<std::size_t>(view.size()));
    backend_->copy_out(view, std::span<float>(values));
    return values;
  }
  /// Zeros at about `zeros` of ten places, a whole row of them and a -0.
  [[nodiscard]] static std::vector<float> sparse_values(std::int64_t rows, std::int64_t cols, int zeros) {
    std::vector<float> values = test::uniform(3, 1, rows * cols);
    const std::vector<float> draw = test::uniform(4, 2, rows * cols);
    for (std::size_t i = 0; i < values.size(); ++i)
      if (draw[i] < -1 + 0.2F * static_cast<float>(zeros)) values[i] = 0;
    for (std::int64_t col = 0; rows > 2 && col < cols; ++col)
      values[static_cast<std::size_t>(cols + col)] = 0;
    if (!values.empty()) values.back() = -0.0F;
    return values;
  }
  /// y of the dense product on the reference backend; none of it is part of what is tested.
  struct Dense {
    std::int64_t rows, cols;
    std::vector<float> values;
  };
  [[nodiscard]] static std::vector<float> reference(const Dense& x, const Dense& w,
                                                    const std::vector<float>& bias, const Dense& y,
                                                    bool add) {
    const auto backend = make_reference_backend();
    const auto bring = [&](const Dense& dense) {
      Tensor result = backend->allocate(dense.rows, dense.cols);
      backend->copy_in(std::span<const float>(dense.values), result);
      return result;
    };
    const Tensor found = bring(y);
    const Tensor offset = bias.empty() ? Tensor() : bring({1, std::ssize(bias), bias});
    backend->linear().linear(bring(x), bring(w), bias.empty() ? View() : offset.view(), found, add);
    std::vector<float> values(y.values.size());
    backend->copy_out(found, std::span<float>(values));
    return values;
  }
  std::unique_ptr<Backend> backend_ = test::make_backend(GetParam());
};

TEST_P(Csr, keeps_every_value_on_the_way_there_and_back) {
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                                   {0, 0},
                                   {0, 5},
                                   {5, 0},
                                   {3, 5},
                                   {7, 64},
                                   {64, 7},
                                   {33, 130}}) {
    for (const int zeros : {0, 5, 9, 10}) {
      std::vector<float> values = sparse_values(rows, cols, zeros);
      const Tensor w = tensor(rows, cols, values),
                   back = tensor(rows, cols, std::vector<float>(values.size(), 9));
      const auto matrix = backend_->csr().compress(w);
      const auto nonzeros = std::count_if(values.begin(), values.end(), [](float v) { return v != 0; });
      EXPECT_EQ(matrix->nonzeros(), nonzeros);
      EXPECT_EQ(matrix->rows(), rows);
      EXPECT_EQ(matrix->cols(), cols);
      const double size = static_cast<double>(std::max<std::int64_t>(1, rows * cols));
      EXPECT_DOUBLE_EQ(matrix->sparsity(), values.empty() ? 0 : 1 - static_cast<double>(nonzeros) / size);
      backend_->csr().expand(*matrix, back);
      EXPECT_EQ(host(back), values) << rows << " x " << cols << ", " << zeros;
    }
  }
}

TEST_P(Csr, products_are_those_of_the_dense_matrix) {
  for (const std::int64_t tokens : {0, 1, 15, 16, 17, 40}) {
    for (const bool add : {false, true}) {
      for (const bool with_bias : {false, true}) {
        for (const auto& [out, in] :
             {std::pair<std::int64_t, std::int64_t>{33, 70}, {33, 0}, {0, 70}, {1, 1}}) {
          const Dense w{out, in, sparse_values(out, in, 5)};
          const Dense x{tokens, in, test::uniform(5, 3, tokens * in)};
          const Dense before{tokens, out, test::uniform(7, 5, tokens * out)};
          const std::vector<float> bias =
              with_bias && out > 0 ? test::uniform(6, 4, out) : std::vector<float>();
          const Tensor offset = tensor(1, std::ssize(bias), bias);
          const Tensor sparse = tensor(before.rows, before.cols, before.values);
          backend_->csr().linear(tensor(x.rows, x.cols, x.values),
                                 *backend_->csr().compress(tensor(w.rows, w.cols, w.values)),
                                 bias.empty() ? View() : offset.view(), sparse, add);
          const auto expected = reference(x, w, bias, before, add), found = host(sparse);
          for (std::size_t i = 0; i < expected.size(); ++i)
            ASSERT_NEAR(found[i], expected[i], 1e-5)
                << tokens << " tokens, " << out << " x " << in << ", add " << add << ", bias " << with_bias;
        }
      }
    }
  }
}

TEST_P(Csr, works_on_windows_of_larger_tensors) {
  const Tensor large_w = tensor(20, 30, sparse_values(20, 30, 5)),
               large_x = tensor(9, 40, test::uniform(5, 3, 360));
  const Tensor dense = tensor(9, 50, test::uniform(7, 5, 450)), sparse = tensor(9, 50, host(dense));
  const View w = large_w.view().row_range(2, 11).column_range(3, 17);
  const View x = large_x.view().row_range(1, 7).column_range(5, 17);
  const auto part = [](const Tensor& y) { return y.view().row_range(1, 7).column_range(8, 11); };
  backend_->linear().linear(x, w, View(), part(dense), true);
  backend_->csr().linear(x, *backend_->csr().compress(w), View(), part(sparse), true);
  const auto expected = host(dense), found = host(sparse);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-5);
}

TEST_P(Csr, a_matrix_of_zeros_gives_bias_or_nothing) {
  const Tensor w = tensor(3, 4, std::vector<float>(12, 0)), x = tensor(2, 4, test::uniform(5, 3, 8));
  const Tensor bias = tensor(1, 3, {1, 2, 3}), y = tensor(2, 3, std::vector<float>(6, 7));
  const auto matrix = backend_->csr().compress(w);
  EXPECT_EQ(matrix->nonzeros(), 0);
  backend_->csr().linear(x, *matrix, bias, y, true);
  EXPECT_EQ(host(y), (std::vector<float>{8, 9, 10, 8, 9, 10}));
  backend_->csr().linear(x, *matrix, View(), y, false);
  EXPECT_EQ(host(y), std::vector<float>(6, 0));
}

TEST_P(Csr, refuses_other_shapes_and_other_backends_matrices) {
  const Tensor w = tensor(3, 4, std::vector<float>(12, 1)), x = tensor(2, 5, std::vector<float>(10, 1));
  const Tensor y = tensor(2, 3, std::vector<float>(6, 0)),
               other_shape = tensor(4, 3, std::vector<float>(12, 0));
  const auto matrix = backend_->csr().compress(w);
  EXPECT_THROW(backend_->csr().linear(x, *matrix, View(), y, false), LogicError);
  EXPECT_THROW(backend_->csr().expand(*matrix, other_shape), LogicError);
  const auto another = test::make_backend(GetParam());
  EXPECT_THROW(another->csr().expand(*matrix, another->allocate(3, 4)), LogicError);
}

INSTANTIATE_TEST_SUITE_P(Backends, Csr, testing::ValuesIn(test::backend_names()));

}  // namespace
}  // namespace fedspallm::backend
