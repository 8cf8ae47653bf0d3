// SPDX-License-Identifier: Apache-2.0
// Products with 2:4 matrices agree with dense ones as far as 16 bits go; who has none says why. On the CPU
// backends, on the emulated GPU with an emulated cuSPARSELt, and on a real one where it is installed.
#include "fedspallm/backend/structured.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "cases.hpp"
#include "support/backends.hpp"

namespace fedspallm::backend {
namespace {

class Structured : public testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] Tensor tensor(std::int64_t rows, std::int64_t cols, const std::vector<float>& values) {
    Tensor result = backend_->allocate(rows, cols);
    backend_->copy_in(std::span<const float>(values), result);
    return result;
  }
  /// Two of every four weights are 0, other ones in each group.
  [[nodiscard]] static std::vector<float> two_of_four(std::int64_t rows, std::int64_t cols) {
    std::vector<float> values = test::uniform(3, 1, rows * cols);
    for (std::size_t i = 0; i < values.size(); ++i)
      if ((i + i / 4) % 4 < 2) values[i] = 0;
    return values;
  }
  std::unique_ptr<Backend> backend_ = test::make_backend(GetParam());
};

TEST_P(Structured, products_are_those_of_the_dense_matrix_or_it_is_said_why_there_are_none) {
  const std::int64_t n = 32, in = 96, out = 64;
  const Tensor x = tensor(n, in, test::uniform(5, 3, n * in)), w = tensor(out, in, two_of_four(out, in));
  const StructuredChoice choice = make_structured_product(*backend_, x, w);
  EXPECT_EQ(choice.product == nullptr, !choice.lacks.empty());
  if (choice.product == nullptr) {
    if (GetParam() == "cuda") GTEST_SKIP() << choice.lacks;
    return;
  }
  const Tensor dense = backend_->allocate(n, out), found = backend_->allocate(n, out);
  backend_->linear().linear(x, w, View(), dense, false);
  std::vector<float> expected(static_cast<std::size_t>(n * out)), values(expected.size());
  backend_->copy_out(dense, std::span<float>(expected));
  for (int turn = 0; turn < 2; ++turn) {
    choice.product->run();
    choice.product->result(found);
    backend_->copy_out(found, std::span<float>(values));
    // 48 terms of at most 1, operands and sum rounded to 11 bits.
    for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], expected[i], 48 * 0x1p-10) << i;
  }
  EXPECT_EQ(choice.product->name().substr(0, 12), "cusparselt 0");
  EXPECT_THROW(choice.product->result(x), LogicError);
}

/// Who has no such products looks at no matrix.
class StructuredOnGpus : public Structured {};

TEST_P(StructuredOnGpus, refuse_other_matrices) {
  const Tensor x = tensor(32, 64, test::uniform(5, 3, 32 * 64));
  const Tensor dense = tensor(32, 64, std::vector<float>(32 * 64, 1)), narrow = backend_->allocate(32, 32);
  EXPECT_THROW((void)make_structured_product(*backend_, x, narrow), LogicError);
  const View odd = dense.view().row_range(0, 31);
  EXPECT_NE(make_structured_product(*backend_, x, odd).lacks, "");
  try {
    const StructuredChoice choice = make_structured_product(*backend_, x, dense);
    EXPECT_EQ(choice.product, nullptr) << "not 2:4";
    GTEST_SKIP() << choice.lacks;
  } catch (const LogicError& error) {
    EXPECT_NE(std::string(error.what()).find("two of every four"), std::string::npos) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, Structured, testing::ValuesIn(test::backend_names()));
#if defined(FEDSPALLM_TEST_CUDA)
INSTANTIATE_TEST_SUITE_P(Backends, StructuredOnGpus, testing::Values("cuda"));
#else
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StructuredOnGpus);
#endif

}  // namespace
}  // namespace fedspallm::backend
