// SPDX-License-Identifier: Apache-2.0
// The port that a backend makes: packing, sending and merging on a device are the same as doing it in host
// memory. On the CPU backends here; tests/backend has the kernels.
#include "device_transport.hpp"

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/wire/device.hpp"

#include <gtest/gtest.h>

#include "support/merged_matrix.hpp"
#include "support/update_cases.hpp"
#include <array>

namespace fedspallm::app {
namespace {

using test::expect_same;
using test::UpdateCase;

class Port : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<backend::Backend> backend_ =
      GetParam() == "cpu" ? backend::make_cpu_backend(2) : backend::make_reference_backend();
  std::unique_ptr<comm::DevicePort> port_ = make_device_port(*backend_);
};

/// Rules of every kind, one for each turn.
aggregate::MergeRules rules_of_turn(std::size_t turn, std::int64_t cols) {
  using aggregate::TieRule;
  aggregate::MergeRules rules;
  rules.tie = std::array{TieRule::score, TieRule::magnitude, TieRule::index}[turn % 3];
  rules.expand = turn % 5 != 4;
  rules.sparsity = 0.625;
  if (turn % 7 == 3) rules.averaging = aggregate::Averaging::mean;
  if (turn % 4 == 1 && cols % 8 == 0) rules.keep = 4, rules.group = 8;
  return rules;
}

TEST_P(Port, merges_to_the_bits_of_the_host) {
  std::size_t turn = 0;
  for (const UpdateCase& item : test::update_cases()) {
    SCOPED_TRACE(item.name());
    const aggregate::MergeRules rules = rules_of_turn(turn++, item.cols);
    const std::vector<std::int64_t> diagonal(static_cast<std::size_t>(item.cols), 5);
    std::vector<wire::PackedMatrix> matrices;
    float largest = 0;
    for (std::uint32_t client = 0; client < 3; ++client) {
      matrices.push_back(test::packed_matrix(item, client));
      largest = std::max(largest, wire::largest_magnitude(matrices.back()));
    }
    const auto scale = aggregate::FixedPoint::covering(largest, 3);
    aggregate::PartialMerge expected(item.rows, item.cols, scale, {});
    const auto merge = port_->begin_merge(item.rows, item.cols, item.dtype, scale.q);
    for (const wire::PackedMatrix& matrix : matrices) {
      expected.add(matrix);
      wire::MatrixUpdate update;
      update.matrix = matrix;
      const auto image = wire::device_image(update);
      const auto memory = port_->allocate(std::ssize(image));
      port_->upload(image, memory.get());
      const auto found = merge->add(memory.get(), matrix.kept);
      EXPECT_EQ(found.kept, matrix.kept);
      EXPECT_FALSE(found.padding_set);
      EXPECT_EQ(found.largest, wire::largest_magnitude(matrix));
    }
    expect_same(merge->finish(3, rules, diagonal),
                aggregate::finish(expected, 3, rules, item.dtype, diagonal));
  }
}

TEST_P(Port, a_later_merge_starts_from_nothing) {
  const UpdateCase item{5, 40, DType::bf16, 50};
  const wire::PackedMatrix matrix = test::packed_matrix(item, 0);
  wire::MatrixUpdate update;
  update.matrix = matrix;
  const auto image = wire::device_image(update);
  const auto memory = port_->allocate(std::ssize(image));
  port_->upload(image, memory.get());
  aggregate::PartialMerge expected(item.rows, item.cols, {-40}, {});
  expected.add(matrix);
  const aggregate::MergeRules rules{.expand = false};
  for (int turn = 0; turn < 2; ++turn) {
    const auto merge = port_->begin_merge(item.rows, item.cols, item.dtype, -40);
    (void)merge->add(memory.get(), matrix.kept);
    expect_same(merge->finish(1, rules, {}), aggregate::finish(expected, 1, rules, item.dtype, {}));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, Port, testing::Values("reference", "cpu"));

}  // namespace
}  // namespace fedspallm::app
