// SPDX-License-Identifier: Apache-2.0
// The reference backend against numbers worked out by hand: it is the meaning of each op, so nothing else can
// judge it. The CPU backend runs through the same cases.
#include "fedspallm/backend/backend.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace fedspallm::test {
namespace {

using backend::Activation;
using backend::AttentionShape;
using backend::Backend;
using backend::Element;
using backend::Norm;
using backend::Tensor;
using backend::View;
using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

using Floats = std::vector<float>;
using Masks = std::vector<std::uint8_t>;

class HandMade : public testing::TestWithParam<bool> {
 protected:
  HandMade() : backend_(GetParam() ? backend::make_cpu_backend(2) : backend::make_reference_backend()) {}

  Tensor make(std::int64_t rows, std::int64_t cols, const Floats& values) {
    Tensor tensor = backend_->allocate(rows, cols);
    backend_->copy_in(std::span<const float>(values), tensor);
    return tensor;
  }
  Tensor make_mask(std::int64_t rows, std::int64_t cols, const Masks& values) {
    Tensor tensor = backend_->allocate(rows, cols, Element::u8);
    backend_->copy_in(std::span<const std::uint8_t>(values), tensor);
    return tensor;
  }
  Floats values(const View& view) {
    Floats result(static_cast<std::size_t>(view.size()));
    backend_->copy_out(view, std::span<float>(result));
    return result;
  }
  Masks mask_of(const View& view) {
    Masks result(static_cast<std::size_t>(view.size()));
    backend_->copy_out(view, std::span<std::uint8_t>(result));
    return result;
  }
  static auto near(const Floats& expected) { return Pointwise(FloatNear(2e-6F), expected); }

  std::unique_ptr<Backend> backend_;
};

TEST_P(HandMade, LinearIsXTimesWTransposedPlusBiasPlusWhatWasThere) {
  const Tensor x = make(2, 3, {1, 2, 3, 4, 5, 6});
  const Tensor w = make(2, 3, {1, 0, -1, 2, 1, 0});
  const Tensor bias = make(1, 2, {10, 20});
  const Tensor y = make(2, 2, {1, 1, 1, 1});
  backend_->linear().linear(x, w, View(), y, false);
  EXPECT_THAT(values(y), ElementsAre(-2, 4, -2, 13));
  backend_->linear().linear(x, w, bias, y, true);
  EXPECT_THAT(values(y), ElementsAre(6, 28, 6, 46));
}

TEST_P(HandMade, SubtractProductTakesATimesBAway) {
  const Tensor a = make(2, 2, {1, 2, 3, 4});
  const Tensor b = make(2, 1, {5, 6});
  const Tensor c = make(2, 1, {100, 100});
  backend_->linear().subtract_product(a, b, c);
  EXPECT_THAT(values(c), ElementsAre(83, 61));
}

TEST_P(HandMade, GramAddsToTheUpperTriangleOnly) {
  const Tensor x = make(2, 2, {1, 2, 3, 4});
  const Tensor h = make(2, 2, {1, 1, 7, 1});
  backend_->linear().gram(x, 0.5F, h);
  EXPECT_THAT(values(h), ElementsAre(6, 8, 7, 11));
}

TEST_P(HandMade, InverseUpperFactorIsTheUpperCholeskyFactorOfTheInverse) {
  // U = [[2, 1, 1], [0, 1, 3], [0, 0, 0.5]] gives U^T U = H^-1; H below is (U^T U)^-1, worked out by hand.
  // U^-1 = [[0.5, -0.5, 2], [0, 1, -6], [0, 0, 2]] and H = U^-1 U^-T.
  const Tensor h = make(3, 3, {4.5F, -12.5F, 4, 99, 37, -12, 99, 99, 4});
  EXPECT_EQ(backend_->linear().inverse_upper_factor(h), std::nullopt);
  EXPECT_THAT(values(h), Pointwise(FloatNear(2e-5F), Floats{2, 1, 1, 0, 1, 3, 0, 0, 0.5F}));
}

TEST_P(HandMade, InverseUpperFactorNamesTheColumnThatIsNotPositive) {
  const Tensor indefinite = make(3, 3, {1, 0, 0, 0, -1, 0, 0, 0, 1});
  EXPECT_EQ(backend_->linear().inverse_upper_factor(indefinite), 1);
  const Tensor singular = make(2, 2, {1, 1, 1, 1});  // the last column goes first
  EXPECT_EQ(backend_->linear().inverse_upper_factor(singular), 0);
  const Tensor dead = make(2, 2, {1, 0, 0, 0});
  EXPECT_EQ(backend_->linear().inverse_upper_factor(dead), 1);
  const Tensor not_a_number = make(2, 2, {1, 0, 0, std::nanf("")});
  EXPECT_EQ(backend_->linear().inverse_upper_factor(not_a_number), 1);
  const Tensor rounding =
      make(2, 2, {1, 1, 1, 1.00000006F});  // what is left of column 0 is below one unit of rounding
  EXPECT_EQ(backend_->linear().inverse_upper_factor(rounding), 0);
}

TEST_P(HandMade, RmsNormDividesByTheRootOfTheMeanSquare) {
  const Tensor x = make(1, 2, {3, 4});  // mean square 12.5
  const Tensor weight = make(1, 2, {1, 2});
  const Tensor y = backend_->allocate(1, 2);
  backend_->model().norm(Norm::rms, x, weight, View(), 0.0F, y);
  EXPECT_THAT(values(y), near({0.84852814F, 2.2627417F}));
}

TEST_P(HandMade, LayerNormCentresDividesByTheDeviationAndAddsTheBias) {
  const Tensor x = make(1, 4, {1, 3, 5, 7});  // mean 4, variance 5
  const Tensor weight = make(1, 4, {1, 1, 1, 2});
  const Tensor bias = make(1, 4, {0, 0, 10, 0});
  backend_->model().norm(Norm::layer, x, weight, bias, 4.0F, x);  // sqrt(5 + 4) = 3
  EXPECT_THAT(values(x), near({-1.0F, -1.0F / 3, 10 + 1.0F / 3, 2.0F}));
}

TEST_P(HandMade, RopeRotatesElementIWithElementIPlusHalfByTheRowsPosition) {
  // head_dim 4, half 2, two rows of one sequence; row 1: quarter turn of pair 0, none of pair 1.
  const Tensor x = make(2, 4, {1, 2, 3, 4, 1, 2, 3, 4});
  const Tensor cosine = make(2, 2, {1, 1, 0, 1});
  const Tensor sine = make(2, 2, {0, 0, 1, 0});
  backend_->model().rope(x, cosine, sine, 1);
  EXPECT_THAT(values(x), ElementsAre(1, 2, 3, 4, -3, 2, 1, 4));
}

TEST_P(HandMade, RopeStartsAgainWithEachSequence) {
  const Tensor x = make(2, 2, {1, 2, 1, 2});
  const Tensor cosine = make(1, 1, {0});
  const Tensor sine = make(1, 1, {1});
  backend_->model().rope(x, cosine, sine, 1);
  EXPECT_THAT(values(x), ElementsAre(-2, 1, -2, 1));
}

TEST_P(HandMade, AttentionIsCausalAndStaysWithinItsSequence) {
  // Two sequences of two rows, one head of one dimension. Equal scores: the mean of the values seen.
  const Tensor q = make(4, 1, {0, 0, 0, 0});
  const Tensor k = make(4, 1, {1, 2, 3, 4});
  const Tensor v = make(4, 1, {10, 20, 30, 50});
  const Tensor out = backend_->allocate(4, 1);
  AttentionShape shape{2, 1, 1, 1, 1.0F, 0};
  backend_->model().causal_attention(q, k, v, shape, out);
  EXPECT_THAT(values(out), near({10, 15, 30, 40}));
  shape.window = 1;  // every query sees itself only
  backend_->model().causal_attention(q, k, v, shape, out);
  EXPECT_THAT(values(out), near({10, 20, 30, 50}));
}

TEST_P(HandMade, AttentionWeightsAreSoftmaxOfScaledProductsAndHeadsShareKeys) {
  // Two heads on one kv head; q of head 0 is ln 3 / 2 with scale 2: key 1 weighs three times key 0.
  const float q_value = std::log(3.0F) / 2;
  const Tensor q = make(2, 2, {0, 0, q_value, -q_value});
  const Tensor k = make(2, 1, {0, 1});
  const Tensor v = make(2, 1, {0, 4});
  const Tensor out = backend_->allocate(2, 2);
  backend_->model().causal_attention(q, k, v, AttentionShape{2, 2, 1, 1, 2.0F, 0}, out);
  EXPECT_THAT(values(out), near({0, 0, 3, 1}));
}

TEST_P(HandMade, ActivationsAreTheirFormulas) {
  const Tensor x = make(1, 3, {-1, 0, 2});
  backend_->model().activate(Activation::relu, x);
  EXPECT_THAT(values(x), ElementsAre(0, 0, 2));
  const Tensor g = make(1, 4, {-1, 0, 1, 3});
  backend_->model().activate(Activation::gelu, g);
  EXPECT_THAT(values(g), near({-0.15865525F, 0, 0.84134475F, 2.99595F}));
  const Tensor gate = make(1, 3, {0, 1, -1});
  const Tensor up = make(1, 3, {5, 2, 3});
  backend_->model().silu_multiply(gate, up);
  EXPECT_THAT(values(gate), near({0, 1.4621172F, -0.80682426F}));
}

TEST_P(HandMade, AddAddsInPlace) {
  const Tensor x = make(1, 2, {1, 2});
  const Tensor y = make(1, 2, {10, 20});
  backend_->model().add(x, y);
  EXPECT_THAT(values(y), ElementsAre(11, 22));
}

TEST_P(HandMade, TokenNllIsMinusTheLogProbabilityOfTheTarget) {
  const Tensor logits = make(3, 2, {0, 0, 0, std::log(3.0F), 500, 400});
  const std::vector<std::int32_t> targets{1, 0, -1};
  std::vector<double> nll(3, -1.0);
  backend_->model().token_nll(logits, targets, nll);
  EXPECT_NEAR(nll[0], std::log(2.0), 1e-6);
  EXPECT_NEAR(nll[1], std::log(4.0), 1e-6);
  EXPECT_EQ(nll[2], 0.0);
}

TEST_P(HandMade, FirstNonFiniteIsTheSmallestIndex) {
  const float nan = std::nanf("");
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(backend_->model().first_non_finite(make(2, 2, {1, 2, 3, 4})), std::nullopt);
  EXPECT_EQ(backend_->model().first_non_finite(make(2, 2, {1, 2, nan, infinity})), 2);
  EXPECT_EQ(backend_->model().first_non_finite(make(2, 2, {1, -infinity, nan, 4})), 1);
}

TEST_P(HandMade, ScoresAreTheirFormulas) {
  const Tensor w = make(2, 2, {2, -3, 0, 1});
  const Tensor row = make(1, 2, {4, 0.5F});
  const Tensor score = backend_->allocate(2, 2);
  backend_->prune().saliency(w, row, score);
  EXPECT_THAT(values(score), ElementsAre(0.25F, 36, 0, 4));
  backend_->prune().weighted_magnitude(w, row, score);
  EXPECT_THAT(values(score), ElementsAre(8, 1.5F, 0, 0.5F));
  backend_->prune().prefer_dropped(make_mask(2, 2, {1, 0, 1, 1}), score);
  EXPECT_THAT(values(score), ElementsAre(8, -1, 0, 0.5F));
}

TEST_P(HandMade, SelectionDropsTheSmallestAndOfEqualOnesTheFirst) {
  const Tensor score = make(2, 3, {1, 0, 1, -1, 1, -0.0F});
  const Tensor mask = backend_->allocate(2, 3, Element::u8);
  backend_->prune().select_smallest(score, 4, mask);
  EXPECT_THAT(mask_of(mask), ElementsAre(0, 0, 1, 0, 1, 0));
  backend_->prune().select_smallest(score, 2, mask);  // -1, then of the two zeros (0 and -0) the first
  EXPECT_THAT(mask_of(mask), ElementsAre(1, 0, 1, 0, 1, 1));
  backend_->prune().select_smallest_per_row(score, std::vector<std::int64_t>{2, 0}, mask);
  EXPECT_THAT(mask_of(mask), ElementsAre(0, 0, 1, 1, 1, 1));
  backend_->prune().select_published(score, 3, mask);  // sorted: -1 0 0 1 1 1; every 1 goes
  EXPECT_THAT(mask_of(mask), ElementsAre(0, 0, 0, 0, 0, 0));
  backend_->prune().select_published(score, 1, mask);
  EXPECT_THAT(mask_of(mask), ElementsAre(1, 0, 1, 0, 1, 0));
}

TEST_P(HandMade, SelectionWithinGroupsDropsTheSmallestOfEachGroup) {
  const Tensor score = make(1, 6, {3, 1, 2, 5, 5, 5});
  const Tensor mask = backend_->allocate(1, 6, Element::u8);
  backend_->prune().select_n_of_m(score, 1, 3, mask);
  EXPECT_THAT(mask_of(mask), ElementsAre(1, 0, 0, 0, 0, 1));
}

TEST_P(HandMade, ObsBlockSendsEachErrorToTheLaterColumns) {
  // Row (4, 6, 5), columns 0 and 2 dropped. error_0 = 4/2 = 2; w_1 = 6 - 2*1 = 4 (kept, error 0);
  // w_2 = 5 - 2*0.5 - 0 = 4; error_2 = 4/4 = 1.
  const Tensor w = make(1, 3, {4, 6, 5});
  const Tensor u = make(3, 3, {2, 1, 0.5F, 0, 1, 3, 0, 0, 4});
  const Tensor mask = make_mask(1, 3, {0, 1, 0});
  const Tensor error = backend_->allocate(1, 3);
  backend_->prune().obs_block(w, u, mask, error);
  EXPECT_THAT(values(w), ElementsAre(0, 4, 0));
  EXPECT_THAT(values(error), ElementsAre(2, 0, 1));
}

TEST_P(HandMade, ObsBlockChoosesGroupsFromWeightsThatEarlierColumnsUpdated) {
  // Groups (0, 1) and (2, 3), one of two kept, u_jj = 1. Group 0: 1 < 2, so column 0 goes, error 1.
  // Column 2 becomes 3 - 1*2 = 1, smaller than column 3 = 2 (before the update it would have been the larger
  // one).
  const Tensor w = make(1, 4, {1, 2, 3, 2});
  const Tensor u = make(4, 4, {1, 0, 2, 0, 0, 1, 0, 0, 0, 0, 1, 0.5F, 0, 0, 0, 1});
  const Tensor mask = backend_->allocate(1, 4, Element::u8);
  const Tensor error = backend_->allocate(1, 4);
  backend_->prune().obs_block_n_of_m(w, u, 1, 2, View(), mask, error);
  EXPECT_THAT(mask_of(mask), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(values(w), ElementsAre(0, 2, 0, 1.5F));
  EXPECT_THAT(values(error), ElementsAre(1, 0, 1, 0));
}

TEST_P(HandMade, ObsBlockDropsFirstWhatWasDroppedBefore) {
  const Tensor w = make(1, 2, {1, 5});
  const Tensor u = make(2, 2, {1, 0, 0, 1});
  const Tensor previous = make_mask(1, 2, {1, 0});
  const Tensor mask = backend_->allocate(1, 2, Element::u8);
  const Tensor error = backend_->allocate(1, 2);
  backend_->prune().obs_block_n_of_m(w, u, 1, 2, previous, mask, error);
  EXPECT_THAT(mask_of(mask), ElementsAre(1, 0));
  EXPECT_THAT(values(w), ElementsAre(1, 0));
}

TEST_P(HandMade, ApplyMaskRoundAndSumOfSquares) {
  const Tensor w = make(1, 3, {1.00390625F, -2, 3});  // 1 + 2^-8: a tie in bf16, goes to even
  backend_->prune().apply_mask(make_mask(1, 3, {1, 0, 1}), w);
  EXPECT_THAT(values(w), ElementsAre(1.00390625F, 0, 3));
  backend_->prune().round_to_dtype(DType::bf16, w);
  EXPECT_THAT(values(w), ElementsAre(1, 0, 3));
  backend_->prune().start_squares();
  backend_->prune().add_squares(w);
  EXPECT_EQ(backend_->prune().squares(), 10.0);
}

TEST_P(HandMade, PackKeepsMaskBitsAndKeptValuesEvenWhereTheyAreZero) {
  const Tensor w = make(1, 4, {1, 0, 3, 4});
  const Tensor mask = make_mask(1, 4, {1, 1, 0, 1});
  std::vector<std::uint64_t> bits(1, ~std::uint64_t{0});
  std::vector<std::byte> packed;
  EXPECT_EQ(backend_->sparse().pack(w, mask, DType::bf16, bits, packed), 3);
  EXPECT_EQ(bits[0], 0b1011U);
  // 1 = 0x3f80, 0 = 0x0000, 4 = 0x4080, least significant byte first.
  EXPECT_THAT(packed, ElementsAre(std::byte{0x80}, std::byte{0x3f}, std::byte{0}, std::byte{0},
                                  std::byte{0x80}, std::byte{0x40}));
  const Tensor back = make(1, 4, {9, 9, 9, 9});
  backend_->sparse().unpack(bits, packed, DType::bf16, back);
  EXPECT_THAT(values(back), ElementsAre(1, 0, 0, 4));
  const Tensor mask_back = make_mask(1, 4, {0, 0, 1, 0});
  backend_->sparse().unpack_mask(bits, mask_back);
  EXPECT_THAT(mask_of(mask_back), ElementsAre(1, 1, 0, 1));
}

INSTANTIATE_TEST_SUITE_P(Backends, HandMade, testing::Bool(),
                         [](const auto& backend) { return backend.param ? "cpu" : "reference"; });

}  // namespace
}  // namespace fedspallm::test
