// SPDX-License-Identifier: Apache-2.0
// The CUDA backend against the reference backend over the one list of cases. Built twice: for a GPU (label
// gpu; skipped where there is none) and for the CPU with emulated CUDA (emulation/cuda_runtime_api.h).
#include "fedspallm/backend/cuda.hpp"

#include <gtest/gtest.h>

#include "agreement.hpp"

namespace fedspallm::test {
namespace {

class CudaParity : public testing::TestWithParam<std::string> {};

/// 16-bit products differ from those of f32 in what goes into them: that they repeat is shown there.
void expect_agreement_in(backend::Products products, const Case& item) {
  SCOPED_TRACE(backend::name_of(products));
  const auto reference = backend::make_reference_backend(products);
  const auto cuda = backend::make_cuda_backend({.device = 0, .products = products});
  expect_agreement(item, run_case(*cuda, item), run_case(*reference, item), products);
}

void expect_parity(const Case& item) {
  const auto reference = backend::make_reference_backend();
  const auto cuda = backend::make_cuda_backend(0);
  const auto another = backend::make_cuda_backend(0);
  const Output found = run_case(*cuda, item);
  expect_agreement(item, found, run_case(*reference, item));
  const std::int64_t kept = cuda->allocated_bytes();  // workspaces: warm after the first call
  EXPECT_TRUE(same_bits(run_case(*cuda, item), found)) << "second call";
  EXPECT_EQ(cuda->allocated_bytes(), kept);
  EXPECT_TRUE(same_bits(run_case(*another, item), found)) << "another backend";
}

TEST_P(CudaParity, AgreesWithTheReferenceAndRepeatsItsBits) {
  for (const Case& item : all_cases()) {
    if (item.op != GetParam()) continue;
    SCOPED_TRACE(item.name());
    expect_parity(item);
    if (!multiplies_activations(item)) continue;
    expect_agreement_in(backend::Products::f16, item);
    expect_agreement_in(backend::Products::bf16, item);
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, CudaParity, testing::ValuesIn(op_names()), test_name_of_op);

}  // namespace
}  // namespace fedspallm::test
