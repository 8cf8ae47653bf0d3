// SPDX-License-Identifier: Apache-2.0
// The port that a backend makes: packing, sending and summing on a device are the same as doing it in host
// memory. On the CPU backends here; tests/backend has the kernels.
#include "device_transport.hpp"

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/wire/device.hpp"

#include <gtest/gtest.h>

#include "support/update_cases.hpp"
#include <cstring>

namespace fedspallm::app {
namespace {

using test::UpdateCase;

class Port : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<backend::Backend> backend_ =
      GetParam() == "cpu" ? backend::make_cpu_backend(2) : backend::make_reference_backend();
  std::unique_ptr<comm::DevicePort> port_ = make_device_port(*backend_);
};

TEST_P(Port, sums_are_those_of_the_host) {
  for (const UpdateCase& item : test::update_cases()) {
    SCOPED_TRACE(item.name());
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
    std::vector<aggregate::Tile> tiles(expected.tiles().size());
    merge->take(tiles);
    EXPECT_EQ(std::memcmp(tiles.data(), expected.tiles().data(), tiles.size() * sizeof(aggregate::Tile)), 0);
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
  std::vector<aggregate::Tile> first(4), second(4);
  for (auto* tiles : {&first, &second}) {
    const auto merge = port_->begin_merge(item.rows, item.cols, item.dtype, -50);
    (void)merge->add(memory.get(), matrix.kept);
    merge->take(*tiles);
  }
  EXPECT_TRUE(first == second);
  EXPECT_FALSE(first == std::vector<aggregate::Tile>(4));
}

INSTANTIATE_TEST_SUITE_P(Backends, Port, testing::Values("reference", "cpu"));

}  // namespace
}  // namespace fedspallm::app
