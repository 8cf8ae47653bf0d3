// SPDX-License-Identifier: Apache-2.0
// Each op refuses operands of other backends, wrong elements and wrong shapes with a LogicError, on every
// backend.
#include "fedspallm/backend/backend.hpp"
#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/backends.hpp"

namespace fedspallm::test {
namespace {

using backend::Activation;
using backend::AttentionShape;
using backend::Backend;
using backend::Element;
using backend::Norm;
using backend::Tensor;
using backend::View;
using testing::HasSubstr;
using testing::ThrowsMessage;

#define EXPECT_REFUSED(call, text) EXPECT_THAT([&] { call; }, ThrowsMessage<LogicError>(HasSubstr(text)))

class Checks : public testing::TestWithParam<std::string> {
 protected:
  Checks() : backend_(make_backend(GetParam())), other_(make_backend(GetParam())) {}
  View floats(std::int64_t rows, std::int64_t cols) {
    tensors_.push_back(backend_->allocate(rows, cols));
    backend_->fill(tensors_.back(), 0.0F);
    return tensors_.back();
  }
  View mask(std::int64_t rows, std::int64_t cols) {
    tensors_.push_back(backend_->allocate(rows, cols, Element::u8));
    backend_->fill(tensors_.back(), 1.0F);
    return tensors_.back();
  }
  View foreign(std::int64_t rows, std::int64_t cols) {
    foreign_.push_back(other_->allocate(rows, cols));
    return foreign_.back();
  }

  std::unique_ptr<Backend> backend_, other_;
  std::vector<Tensor> tensors_, foreign_;
};

TEST_P(Checks, LinearOpsNameTheOperandAndBothShapes) {
  auto& ops = backend_->linear();
  EXPECT_REFUSED(ops.linear(floats(2, 3), floats(4, 2), View(), floats(2, 4), false),
                 "w: found 4 x 2, expected 4 x 3");
  EXPECT_REFUSED(ops.linear(floats(2, 3), floats(4, 3), floats(1, 3), floats(2, 4), false),
                 "bias: found 1 x 3");
  EXPECT_REFUSED(ops.linear(floats(2, 3), floats(4, 3), View(), floats(4, 2), false), "y: found 4 x 2");
  EXPECT_REFUSED(ops.linear(foreign(2, 3), floats(4, 3), View(), floats(2, 4), false), "another backend");
  EXPECT_REFUSED(ops.linear(View(), floats(4, 3), View(), floats(2, 4), false), "no tensor");
  EXPECT_REFUSED(ops.linear(mask(2, 3), floats(4, 3), View(), floats(2, 4), false), "found u8, expected f32");
  EXPECT_REFUSED(ops.subtract_product(floats(2, 3), floats(2, 4), floats(2, 4)),
                 "b: found 2 x 4, expected 3 x 4");
  EXPECT_REFUSED(ops.subtract_product(floats(2, 3), floats(3, 4), floats(3, 4)),
                 "c: found 3 x 4, expected 2 x 4");
  EXPECT_REFUSED(ops.gram(floats(2, 3), 1.0F, floats(2, 2)), "h: found 2 x 2, expected 3 x 3");
  EXPECT_REFUSED(static_cast<void>(ops.inverse_upper_factor(floats(2, 3))), "h: found 2 x 3, expected 3 x 3");
}

TEST_P(Checks, NormAndRopeRefuseWrongShapes) {
  auto& ops = backend_->model();
  EXPECT_REFUSED(ops.norm(Norm::rms, floats(2, 3), floats(1, 2), View(), 0.0F, floats(2, 3)), "weight");
  EXPECT_REFUSED(ops.norm(Norm::rms, floats(2, 3), floats(1, 3), floats(1, 3), 0.0F, floats(2, 3)),
                 "no bias");
  EXPECT_REFUSED(ops.norm(Norm::layer, floats(2, 3), floats(1, 3), floats(2, 3), 0.0F, floats(2, 3)), "bias");
  EXPECT_REFUSED(ops.norm(Norm::layer, floats(2, 3), floats(1, 3), View(), 0.0F, floats(3, 3)), "y");
  EXPECT_REFUSED(ops.rope(floats(2, 8), floats(2, 2), floats(1, 2), 2), "sine");
  EXPECT_REFUSED(ops.rope(floats(2, 8), floats(2, 2), floats(2, 2), 1), "columns, found 8");
  EXPECT_REFUSED(ops.rope(floats(2, 8), floats(2, 2), floats(2, 2), 0), "heads >= 1");
  EXPECT_REFUSED(ops.rope(floats(2, 8), floats(0, 2), floats(0, 2), 2), "at least one row");
}

TEST_P(Checks, AttentionRefusesShapesThatDoNotFitTogether) {
  auto& ops = backend_->model();
  const auto attend = [&](AttentionShape shape, const View& q, const View& k) {
    ops.causal_attention(q, k, k, shape, floats(q.rows(), q.cols()));
  };
  const AttentionShape good{2, 4, 2, 3, 1.0F, 0};
  attend(good, floats(4, 12), floats(4, 6));
  const auto with = [&](auto change) {
    AttentionShape shape = good;
    change(shape);
    return shape;
  };
  EXPECT_REFUSED(attend(good, floats(4, 6), floats(4, 6)), "q: found 4 x 6, expected 4 x 12");
  EXPECT_REFUSED(attend(good, floats(4, 12), floats(4, 12)), "k: found 4 x 12, expected 4 x 6");
  EXPECT_REFUSED(attend(good, floats(3, 12), floats(3, 6)), "whole sequences of 2 rows, found 3 rows");
  EXPECT_REFUSED(attend(with([](auto& shape) { shape.kv_heads = 3; }), floats(4, 12), floats(4, 6)),
                 "multiple");
  EXPECT_REFUSED(attend(with([](auto& shape) { shape.sequence_length = 0; }), floats(4, 12), floats(4, 6)),
                 "sequence_length >= 1");
  EXPECT_REFUSED(attend(with([](auto& shape) { shape.head_dim = 0; }), floats(4, 12), floats(4, 6)),
                 "head_dim >= 1");
  EXPECT_REFUSED(attend(with([](auto& shape) { shape.window = -1; }), floats(4, 12), floats(4, 6)),
                 "window >= 0");
  EXPECT_REFUSED(attend(with([](auto& shape) { shape.scale = 0.0F; }), floats(4, 12), floats(4, 6)),
                 "scale > 0");
}

TEST_P(Checks, ElementwiseModelOpsRefuseWrongShapesAndTargets) {
  auto& ops = backend_->model();
  EXPECT_REFUSED(ops.silu_multiply(floats(2, 3), floats(3, 2)), "up");
  EXPECT_REFUSED(ops.activate(Activation::relu, mask(2, 3)), "x: found u8");
  EXPECT_REFUSED(ops.add(floats(2, 3), floats(2, 2)), "y");
  EXPECT_REFUSED(static_cast<void>(ops.first_non_finite(foreign(1, 1))), "another backend");
  std::vector<std::int32_t> targets{0, 3};
  std::vector<double> nll(2);
  EXPECT_REFUSED(ops.token_nll(floats(2, 3), targets, nll), "targets below 3, found 3");
  EXPECT_REFUSED(ops.token_nll(floats(1, 4), targets, nll), "1 targets, found 2");
  EXPECT_REFUSED(ops.token_nll(floats(2, 4), targets, std::span(nll).first(1)), "2 places in nll, found 1");
}

TEST_P(Checks, ScoresAndSelectionsRefuseWrongShapesAndCounts) {
  auto& ops = backend_->prune();
  const std::vector<std::int64_t> one{1};
  const std::vector<std::int64_t> too_many{1, 4};
  EXPECT_REFUSED(ops.saliency(floats(2, 3), floats(1, 2), floats(2, 3)), "diag or factor");
  EXPECT_REFUSED(ops.weighted_magnitude(floats(2, 3), floats(1, 3), floats(3, 2)), "score");
  EXPECT_REFUSED(ops.prefer_dropped(floats(2, 3), floats(2, 3)), "previous_mask: found f32, expected u8");
  EXPECT_REFUSED(ops.select_smallest(floats(2, 3), 7, mask(2, 3)), "0 <= count <= 6, found 7");
  EXPECT_REFUSED(ops.select_smallest(floats(2, 3), -1, mask(2, 3)), "found -1");
  EXPECT_REFUSED(ops.select_smallest(floats(2, 3), 1, mask(3, 3)), "mask");
  EXPECT_REFUSED(ops.select_smallest_per_row(floats(2, 3), one, mask(2, 3)), "2 counts, found 1");
  EXPECT_REFUSED(ops.select_smallest_per_row(floats(2, 3), too_many, mask(2, 3)), "0 <= count <= 3, found 4");
  EXPECT_REFUSED(ops.select_published(floats(2, 3), 6, mask(2, 3)), "0 <= index < 6, found 6");
  EXPECT_REFUSED(ops.select_published(floats(0, 3), 0, mask(0, 3)), "0 <= index < 0");
  EXPECT_REFUSED(ops.select_n_of_m(floats(2, 6), 2, 4, mask(2, 6)), "columns divisible by m");
  EXPECT_REFUSED(ops.select_n_of_m(floats(2, 6), 4, 3, mask(2, 6)), "0 <= keep <= m");
  EXPECT_REFUSED(ops.select_n_of_m(floats(2, 6), 0, 0, mask(2, 6)), "0 <= keep <= m");
}

TEST_P(Checks, SweepAndMaskOpsRefuseWrongShapes) {
  auto& ops = backend_->prune();
  EXPECT_REFUSED(ops.obs_block(floats(2, 4), floats(3, 3), mask(2, 4), floats(2, 4)), "u: found 3 x 3");
  EXPECT_REFUSED(ops.obs_block(floats(2, 4), floats(4, 4), mask(2, 3), floats(2, 4)), "mask");
  EXPECT_REFUSED(ops.obs_block(floats(2, 4), floats(4, 4), mask(2, 4), floats(2, 3)), "error");
  EXPECT_REFUSED(ops.obs_block_n_of_m(floats(2, 4), floats(4, 4), 1, 3, View(), mask(2, 4), floats(2, 4)),
                 "columns divisible by m");
  EXPECT_REFUSED(ops.obs_block_n_of_m(floats(2, 4), floats(4, 4), 1, 2, mask(1, 4), mask(2, 4), floats(2, 4)),
                 "previous_mask");
  EXPECT_REFUSED(ops.apply_mask(mask(2, 3), floats(3, 2)), "mask");
  EXPECT_REFUSED(ops.round_to_dtype(DType::bf16, mask(2, 3)), "w");
  EXPECT_REFUSED(static_cast<void>(ops.squares()), "start_squares() was called");
  ops.start_squares();
  EXPECT_REFUSED(ops.add_squares(View()), "no tensor");
}

TEST_P(Checks, SparseOpsRefuseWrongSizesAndPaddingBits) {
  auto& ops = backend_->sparse();
  std::vector<std::uint64_t> bits(2);
  std::vector<std::byte> values;
  EXPECT_REFUSED(ops.pack(floats(8, 8), mask(8, 8), DType::f32, bits, values), "1 words of bits, found 2");
  EXPECT_REFUSED(ops.pack(floats(8, 9), mask(9, 8), DType::f32, bits, values), "mask");
  bits[1] = 1;
  EXPECT_REFUSED(ops.unpack(bits, values, DType::bf16, floats(1, 65)), "2 bytes for 1 set bits, found 0");
  values.resize(4);
  EXPECT_REFUSED(ops.unpack(bits, values, DType::bf16, floats(1, 65)), "2 bytes for 1 set bits, found 4");
  bits[1] = 2;
  EXPECT_REFUSED(ops.unpack(bits, std::span(values).first(2), DType::bf16, floats(1, 65)), "padding");
  EXPECT_REFUSED(ops.unpack_mask(bits, mask(1, 65)), "padding");
  EXPECT_REFUSED(ops.unpack_mask(bits, mask(1, 64)), "1 words of bits, found 2");
}

TEST_P(Checks, CopiesRefuseWrongSizesAndElements) {
  std::vector<float> host(5);
  std::vector<std::uint8_t> host_mask(6);
  EXPECT_REFUSED(backend_->copy_in(std::span<const float>(host), floats(2, 3)), "6 host elements, found 5");
  EXPECT_REFUSED(backend_->copy_out(floats(2, 3), std::span<float>(host)), "6 host elements, found 5");
  EXPECT_REFUSED(backend_->copy_in(std::span<const std::uint8_t>(host_mask), floats(2, 3)),
                 "found f32, expected u8");
  EXPECT_REFUSED(backend_->copy_out(floats(2, 3), std::span<std::uint8_t>(host_mask)),
                 "found f32, expected u8");
  EXPECT_REFUSED(backend_->copy_in_widened(DType::f16, std::span<const std::byte>(), floats(1, 3)),
                 "6 bytes, found 0");
  EXPECT_REFUSED(backend_->copy(floats(2, 3), floats(3, 2)), "destination");
  EXPECT_REFUSED(backend_->copy(floats(2, 3), mask(2, 3)), "destination: found u8");
  EXPECT_REFUSED(backend_->fill(mask(2, 3), 2.0F), "0 or 1");
  EXPECT_REFUSED(backend_->fill(foreign(2, 3), 2.0F), "another backend");
}

INSTANTIATE_TEST_SUITE_P(Backends, Checks, testing::ValuesIn(backend_names()),
                         [](const auto& backend) { return backend.param; });

}  // namespace
}  // namespace fedspallm::test
