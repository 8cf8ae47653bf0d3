// SPDX-License-Identifier: Apache-2.0
// Updates that stay on a device: packed as on the host, summed as aggregate::PartialMerge does, and nothing
// is read beyond what was announced. The same file runs on the CPU backends, on the emulated GPU and on a
// real one.
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "support/backends.hpp"
#include "support/update_cases.hpp"
#include <cmath>
#include <cstring>
#include <limits>

namespace fedspallm::backend {
namespace {

using test::UpdateCase;

class Updates : public testing::TestWithParam<std::string> {
 protected:
  struct OnDevice {
    std::shared_ptr<std::byte> bits, values;
  };
  [[nodiscard]] OnDevice bring(std::span<const std::uint64_t> bits, std::span<const std::byte> values) {
    OnDevice result{ops_.allocate(std::max<std::int64_t>(8, std::ssize(bits) * 8)),
                    ops_.allocate(std::max<std::int64_t>(1, std::ssize(values)))};
    ops_.write(std::as_bytes(bits), result.bits.get());
    ops_.write(values, result.values.get());
    return result;
  }
  [[nodiscard]] std::shared_ptr<std::byte> cleared_tiles(std::int64_t weights) {
    auto tiles = ops_.allocate(
        std::max<std::int64_t>(1, (weights + 63) / 64 * static_cast<std::int64_t>(sizeof(aggregate::Tile))));
    ops_.clear(weights, tiles.get());
    return tiles;
  }
  std::unique_ptr<Backend> backend_ = test::make_backend(GetParam());
  UpdateOps& ops_ = backend_->updates();
};

TEST_P(Updates, are_packed_as_on_the_host) {
  for (const UpdateCase& item : test::update_cases()) {
    SCOPED_TRACE(item.name());
    std::vector<std::uint8_t> kept;
    const std::vector<float> dense = test::case_values(item, 1, kept);
    const wire::PackedMatrix expected = wire::pack(item.rows, item.cols, item.dtype, dense, kept);
    const Tensor w = backend_->allocate(item.rows, item.cols);
    const Tensor mask = backend_->allocate(item.rows, item.cols, Element::u8);
    backend_->copy_in(std::span<const float>(dense), w);
    backend_->copy_in(std::span<const std::uint8_t>(kept), mask);
    OnDevice made;
    const auto packed = ops_.pack(w, mask, item.dtype, [&](std::int64_t count) {
      EXPECT_EQ(count, expected.kept);
      made = bring(expected.bits, std::vector<std::byte>(expected.values.size() + 1));
      ops_.write(std::vector<std::byte>(expected.bits.size() * 8), made.bits.get());
      return UpdateOps::Place{made.bits.get(), made.values.get()};
    });
    std::vector<std::uint64_t> bits(expected.bits.size());
    std::vector<std::byte> values(expected.values.size());
    ops_.read(made.bits.get(), std::as_writable_bytes(std::span(bits)));
    ops_.read(made.values.get(), values);
    EXPECT_EQ(bits, expected.bits);
    EXPECT_EQ(values, expected.values);
    EXPECT_EQ(packed.kept, expected.kept);
    EXPECT_EQ(packed.kept_zeros, wire::count_kept_zeros(expected));
    EXPECT_EQ(packed.largest, wire::largest_magnitude(expected));
  }
}

TEST_P(Updates, sum_up_to_the_bits_of_a_merge_on_the_host) {
  for (const UpdateCase& item : test::update_cases()) {
    SCOPED_TRACE(item.name());
    const std::int64_t weights = item.rows * item.cols;
    const int q = aggregate::FixedPoint::covering(2048, 3).q;
    aggregate::PartialMerge expected(item.rows, item.cols, {q}, {});
    const auto tiles = cleared_tiles(weights);
    for (std::uint32_t client = 0; client < 3; ++client) {
      const wire::PackedMatrix matrix = test::packed_matrix(item, client);
      expected.add(matrix);
      const OnDevice here = bring(matrix.bits, matrix.values);
      const auto added =
          ops_.add({here.bits.get(), here.values.get(), weights, matrix.kept, item.dtype}, q, tiles.get());
      EXPECT_EQ(added.kept, matrix.kept);
      EXPECT_FALSE(added.padding_set);
      EXPECT_EQ(added.largest, wire::largest_magnitude(matrix));
    }
    std::vector<aggregate::Tile> found(expected.tiles().size());
    ops_.read(tiles.get(), std::as_writable_bytes(std::span(found)));
    EXPECT_EQ(std::memcmp(found.data(), expected.tiles().data(), found.size() * sizeof(aggregate::Tile)), 0);
  }
}

TEST_P(Updates, that_lie_are_found_out_without_reading_further) {
  const UpdateCase item{5, 13, DType::f32, 50};
  const std::int64_t weights = item.rows * item.cols;
  wire::PackedMatrix matrix = test::packed_matrix(item, 0);
  const auto tiles = cleared_tiles(weights);
  const auto add = [&](std::int64_t kept) {
    const OnDevice here = bring(matrix.bits, matrix.values);
    return ops_.add({here.bits.get(), here.values.get(), weights, kept, item.dtype}, -40, tiles.get());
  };
  EXPECT_EQ(add(matrix.kept - 1).kept, matrix.kept) << "what the mask says, not what was announced";
  matrix.bits.back() |= std::uint64_t{1} << 63;
  EXPECT_TRUE(add(matrix.kept).padding_set);
  matrix.bits.back() &= ~(std::uint64_t{1} << 63);
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::memcpy(matrix.values.data(), &bad, sizeof bad);
    EXPECT_FALSE(std::isfinite(add(matrix.kept).largest));
  }
}

TEST_P(Updates, refuse_what_cannot_be) {
  const auto memory = ops_.allocate(64);
  EXPECT_THROW((void)ops_.allocate(0), LogicError);
  EXPECT_THROW((void)ops_.add({memory.get(), memory.get(), 8, 9, DType::f32}, 0, memory.get()), LogicError);
  EXPECT_THROW((void)ops_.add({memory.get(), memory.get(), -1, 0, DType::f32}, 0, memory.get()), LogicError);
  EXPECT_THROW((void)ops_.add({nullptr, memory.get(), 8, 1, DType::f32}, 0, memory.get()), LogicError);
}

INSTANTIATE_TEST_SUITE_P(Backends, Updates, testing::ValuesIn(test::backend_names()));

}  // namespace
}  // namespace fedspallm::backend
