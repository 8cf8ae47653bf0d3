// SPDX-License-Identifier: Apache-2.0
#include "agreement.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fedspallm::test {

/// What is below `nothing` may come out as 0: exponentials of very negative numbers do.
double normalised_error(const std::vector<float>& found, const std::vector<float>& expected) {
  constexpr double nothing = 1e-30;
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double error = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
    if (!(std::fabs(error) < nothing)) difference += error * error;
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return difference == 0.0 ? 0.0 : difference / norm;
}

bool multiplies_activations(const Case& item) {
  const std::string op = item.op.substr(0, item.op.find(':'));
  return op == "linear" || op == "gram" || op == "causal_attention";
}

/// fp32 products and sums leave about 1e-13; 1e-11 is room for long sums. The factor of an inverse amplifies
/// rounding by the condition of H (about 1e4 here): 1e-4 relative is the promise, squared. Attention's
/// weights are computed before they are rounded: the last fp32 bit decides to which of two 16-bit numbers a
/// weight between them goes, half a unit either way. Operands that are not rounded at all miss by ten times
/// as much.
double tolerance(const Case& item, backend::Products products) {
  if (item.op == "causal_attention" && products == backend::Products::bf16) return 1e-7;
  if (item.op == "causal_attention" && products == backend::Products::f16) return 1e-9;
  return item.op == "inverse_upper_factor" ? 1e-8 : 1e-11;
}

void expect_agreement(const Case& item, const Output& found, const Output& expected,
                      backend::Products products) {
  ASSERT_EQ(found.values.size(), expected.values.size());
  EXPECT_LE(normalised_error(found.values, expected.values), tolerance(item, products));
  EXPECT_EQ(found.masks, expected.masks);
  EXPECT_EQ(found.numbers, expected.numbers);
  EXPECT_EQ(found.bytes, expected.bytes);
  ASSERT_EQ(found.doubles.size(), expected.doubles.size());
  for (std::size_t i = 0; i < found.doubles.size(); ++i)
    EXPECT_NEAR(found.doubles[i], expected.doubles[i], 1e-6 * std::max(1.0, std::fabs(expected.doubles[i])))
        << i;
}

namespace {

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace

bool same_bits(const Output& a, const Output& b) {
  return same_bits(a.values, b.values) && same_bits(a.doubles, b.doubles) && same_bits(a.masks, b.masks) &&
         same_bits(a.numbers, b.numbers) && same_bits(a.bytes, b.bytes);
}

std::vector<std::string> op_names() {
  std::vector<std::string> names;
  for (const Case& item : all_cases())
    if (std::find(names.begin(), names.end(), item.op) == names.end()) names.push_back(item.op);
  return names;
}

std::string test_name_of_op(const testing::TestParamInfo<std::string>& op) {
  Case item;
  item.op = op.param;
  return item.name();
}

}  // namespace fedspallm::test
