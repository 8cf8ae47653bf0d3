// SPDX-License-Identifier: Apache-2.0
// The CPU backend, with every kernel set that this machine supports, against the reference backend.
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agreement.hpp"

namespace fedspallm::test {
namespace {

using backend::Products;

std::vector<Isa> supported_sets(Products products) {
  std::vector<Isa> sets;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
    if (supported(isa) && backend::lacks_for(products, isa).empty()) sets.push_back(isa);
  return sets;
}

void compare_all_sets(const Case& item, Products products) {
  SCOPED_TRACE(backend::name_of(products));
  const auto reference = backend::make_reference_backend(products);
  const Output expected = run_case(*reference, item);
  for (const Isa isa : supported_sets(products)) {
    SCOPED_TRACE(name_of(isa));
    const auto two = backend::make_cpu_backend(2, isa, products);
    const Output found = run_case(*two, item);
    expect_agreement(item, found, expected, products);
    for (const int threads : {1, 3}) {
      const auto other = backend::make_cpu_backend(threads, isa, products);
      EXPECT_TRUE(same_bits(run_case(*other, item), found)) << threads << " threads";
    }
    const std::int64_t kept = two->allocated_bytes();  // workspaces: warm after the first call
    EXPECT_TRUE(same_bits(run_case(*two, item), found)) << "second call";
    EXPECT_EQ(two->allocated_bytes(), kept);
  }
}

class Parity : public testing::TestWithParam<std::string> {};

TEST_P(Parity, EveryKernelSetAgreesWithTheReferenceAndThreadsChangeNoBit) {
  for (const Case& item : all_cases()) {
    if (item.op != GetParam()) continue;
    SCOPED_TRACE(item.name());
    compare_all_sets(item, Products::f32);
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, Parity, testing::ValuesIn(op_names()), test_name_of_op);

TEST(SixteenBitProducts, AgreeWithTheReferenceThatRoundsItsOperands) {
  if (supported_sets(Products::bf16).empty()) GTEST_SKIP() << backend::lacks_for(Products::bf16, Isa::avx512);
  int compared = 0;
  for (const Case& item : all_cases()) {
    if (!multiplies_activations(item)) continue;  // all else stays in fp32
    SCOPED_TRACE(item.name());
    compare_all_sets(item, Products::bf16);
    ++compared;
  }
  EXPECT_GT(compared, 20);
}

/// 1 + 2^-8 lies between two bf16 numbers and goes to the even one, 1 + 3 * 2^-8 likewise.
TEST(SixteenBitProducts, RoundToNearestWithTiesToEven) {
  if (supported_sets(Products::bf16).empty()) GTEST_SKIP() << backend::lacks_for(Products::bf16, Isa::avx512);
  const auto backend = backend::make_cpu_backend(1, Isa::avx512, Products::bf16);
  const std::vector<float> x = {1.0F + 0x1p-8F, 1.0F + 3 * 0x1p-8F, -0.0F},
                           w = {1.0F, 0.0F, 5.0F, 0.0F, 1.0F, 5.0F};
  const backend::Tensor left = backend->allocate(1, 3), right = backend->allocate(2, 3),
                        y = backend->allocate(1, 2);
  backend->copy_in(std::span<const float>(x), left);
  backend->copy_in(std::span<const float>(w), right);
  backend->linear().linear(left, right, backend::View(), y, false);
  std::vector<float> found(2);
  backend->copy_out(y, found);
  EXPECT_EQ(found, (std::vector<float>{1.0F, 1.0F + 0x1p-6F}));
}

TEST(SixteenBitProducts, AreRefusedByNameWhereTheyAreNot) {
  EXPECT_EQ(backend::lacks_for(Products::f32, Isa::baseline), "");
  EXPECT_THAT(
      [] { (void)backend::make_cpu_backend(1, std::nullopt, Products::f16); },
      testing::ThrowsMessage<ConfigError>(testing::HasSubstr("products in f16 on CPUs: f16 is for GPUs")));
  EXPECT_THAT([] { (void)backend::make_cpu_backend(1, Isa::baseline, Products::bf16); },
              testing::ThrowsMessage<ConfigError>(testing::HasSubstr("the kernels baseline have none")));
}

TEST(SixteenBitProducts, AreNamedByTheKernelSet) {
  EXPECT_EQ(backend::make_reference_backend(Products::f16)->kernel_set(), "reference/f16");
  EXPECT_EQ(backend::make_reference_backend()->kernel_set(), "reference");
  if (supported_sets(Products::bf16).empty()) GTEST_SKIP() << backend::lacks_for(Products::bf16, Isa::avx512);
  const std::string plain = backend::make_cpu_backend(1, Isa::avx512)->kernel_set();
  EXPECT_EQ(backend::make_cpu_backend(1, Isa::avx512, Products::bf16)->kernel_set(), plain + "/bf16");
}

}  // namespace
}  // namespace fedspallm::test
