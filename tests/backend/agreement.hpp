// SPDX-License-Identifier: Apache-2.0
// Purpose: what it means that two backends agree on a case, and the ops that the list of cases knows.
#pragma once

#include <gtest/gtest.h>

#include "cases.hpp"
#include <string>
#include <vector>

namespace fedspallm::test {

/// Whether Products changes what the op computes.
[[nodiscard]] bool multiplies_activations(const Case& item);
/// Largest allowed error of a case's values, by norms and squared.
[[nodiscard]] double tolerance(const Case& item, backend::Products products = backend::Products::f32);
/// Fails the running test where `found` is not `expected` within the tolerance of the case.
void expect_agreement(const Case& item, const Output& found, const Output& expected,
                      backend::Products products = backend::Products::f32);
[[nodiscard]] double normalised_error(const std::vector<float>& found, const std::vector<float>& expected);
[[nodiscard]] bool same_bits(const Output& a, const Output& b);

/// The names of the ops in the list, each once, and what a test of one is called.
[[nodiscard]] std::vector<std::string> op_names();
[[nodiscard]] std::string test_name_of_op(const testing::TestParamInfo<std::string>& op);

}  // namespace fedspallm::test
