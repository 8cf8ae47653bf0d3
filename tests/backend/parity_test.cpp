// SPDX-License-Identifier: Apache-2.0
// The CPU backend, with every kernel set that this machine supports, against the reference backend.
#include "fedspallm/base/cpu_features.hpp"

#include <gtest/gtest.h>

#include "agreement.hpp"

namespace fedspallm::test {
namespace {

std::vector<Isa> supported_sets() {
  std::vector<Isa> sets;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
    if (supported(isa)) sets.push_back(isa);
  return sets;
}

void compare_all_sets(const Case& item) {
  const auto reference = backend::make_reference_backend();
  const Output expected = run_case(*reference, item);
  for (const Isa isa : supported_sets()) {
    SCOPED_TRACE(name_of(isa));
    const auto two = backend::make_cpu_backend(2, isa);
    const Output found = run_case(*two, item);
    expect_agreement(item, found, expected);
    for (const int threads : {1, 3}) {
      const auto other = backend::make_cpu_backend(threads, isa);
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
    compare_all_sets(item);
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, Parity, testing::ValuesIn(op_names()), test_name_of_op);

}  // namespace
}  // namespace fedspallm::test
