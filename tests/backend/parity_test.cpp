// SPDX-License-Identifier: Apache-2.0
// The CPU backend, with every kernel set that this machine supports, against the reference backend.
#include "fedspallm/base/cpu_features.hpp"

#include <gtest/gtest.h>

#include "cases.hpp"
#include <algorithm>
#include <cmath>
#include <cstring>

namespace fedspallm::test {
namespace {

std::vector<Isa> supported_sets() {
  std::vector<Isa> sets;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
    if (supported(isa)) sets.push_back(isa);
  return sets;
}

double normalised_error(const std::vector<float>& found, const std::vector<float>& expected) {
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    difference += std::pow(static_cast<double>(found[i]) - static_cast<double>(expected[i]), 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return difference == 0.0 ? 0.0 : difference / norm;
}

/// fp32 products and sums leave about 1e-13; 1e-11 is room for long sums. The factor of an inverse amplifies
/// rounding by the condition of H (about 1e4 here): 1e-4 relative is the promise, squared.
double tolerance(const Case& item) {
  return item.op == "inverse_upper_factor" ? 1e-8 : 1e-11;
}

void expect_agreement(const Case& item, const Output& found, const Output& expected) {
  ASSERT_EQ(found.values.size(), expected.values.size());
  EXPECT_LE(normalised_error(found.values, expected.values), tolerance(item));
  EXPECT_EQ(found.masks, expected.masks);
  EXPECT_EQ(found.numbers, expected.numbers);
  EXPECT_EQ(found.bytes, expected.bytes);
  ASSERT_EQ(found.doubles.size(), expected.doubles.size());
  for (std::size_t i = 0; i < found.doubles.size(); ++i)
    EXPECT_NEAR(found.doubles[i], expected.doubles[i], 1e-6 * std::max(1.0, std::fabs(expected.doubles[i])))
        << i;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

bool same_bits(const Output& a, const Output& b) {
  return same_bits(a.values, b.values) && same_bits(a.doubles, b.doubles) && same_bits(a.masks, b.masks) &&
         same_bits(a.numbers, b.numbers) && same_bits(a.bytes, b.bytes);
}

/// The names of the ops in the list, each once.
std::vector<std::string> op_names() {
  std::vector<std::string> names;
  for (const Case& item : all_cases())
    if (std::find(names.begin(), names.end(), item.op) == names.end()) names.push_back(item.op);
  return names;
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

std::string test_name(const testing::TestParamInfo<std::string>& op) {
  Case item;
  item.op = op.param;
  return item.name();
}

INSTANTIATE_TEST_SUITE_P(Ops, Parity, testing::ValuesIn(op_names()), test_name);

}  // namespace
}  // namespace fedspallm::test
