// SPDX-License-Identifier: Apache-2.0
// What parity with transformers does not show: pieces against each other, switches without golden, errors,
// edges.
#include "fedspallm/model/decoder.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "model/backends.hpp"
#include "support/expect_error.hpp"
#include "support/support.hpp"
#include "support/tiny_model.hpp"
#include <algorithm>
#include <cmath>
#include <limits>

namespace fedspallm::model {
namespace {

using backend::Tensor;
using backend::View;
using test::expect_error;
using test::kTinyLlama;
using test::kTinyOpt;
using test::TinyTensor;
using test::to_host;

const std::vector<std::int32_t> kTokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};

std::string with(std::string config, const std::string& more) {
  return config.insert(1, more + ",");
}

class DecoderTest : public testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] ModelDirectory open(const std::string& config, const std::vector<TinyTensor>& tensors) {
    const auto path = folder_.path() / std::to_string(models_++);
    test::write_tiny_model(path, config, tensors);
    return ModelDirectory(path);
  }
  [[nodiscard]] ModelDirectory open(const std::string& config) {
    return open(config, test::tiny_tensors(config));
  }

  [[nodiscard]] Tensor embedded(const ModelDirectory& model, std::span<const std::int32_t> tokens,
                                std::int64_t length) {
    Tensor x = backend_->allocate(static_cast<std::int64_t>(tokens.size()), model.architecture().hidden_size);
    embed(model, tokens, length, *backend_, x);
    return x;
  }
  /// After all blocks, in one batch.
  [[nodiscard]] std::vector<float> final_states(const ModelDirectory& model,
                                                std::span<const std::int32_t> tokens, std::int64_t length) {
    const Tensor x = embedded(model, tokens, length);
    BlockForward forward(*backend_, model.architecture(), length, x.rows());
    for (std::int64_t block = 0; block < model.architecture().blocks; ++block)
      forward.forward(load_block(model, block, *backend_), x);
    return to_host(*backend_, x);
  }

  std::unique_ptr<backend::Backend> backend_ = test::make_backend(GetParam());

 private:
  test::TemporaryFolder folder_;
  int models_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Backends, DecoderTest, testing::ValuesIn(test::backend_names()),
                         [](const auto& parameters) { return parameters.param; });

void expect_near(const std::vector<float>& a, const std::vector<float>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance) << i;
}

TinyTensor& named(std::vector<TinyTensor>& tensors, const std::string& name) {
  return *std::find_if(tensors.begin(), tensors.end(), [&](const TinyTensor& t) { return t.name == name; });
}

TEST_P(DecoderTest, SequencesOfABatchDoNotSeeEachOther) {
  for (const std::string& config : {kTinyLlama, kTinyOpt}) {
    const ModelDirectory model = open(config);
    const std::vector<float> together = final_states(model, kTokens, 4);
    for (std::size_t sequence = 0; sequence < 3; ++sequence) {
      const std::vector<float> alone = final_states(model, std::span(kTokens).subspan(4 * sequence, 4), 4);
      expect_near(alone,
                  {together.begin() + static_cast<std::ptrdiff_t>(sequence * 32),
                   together.begin() + static_cast<std::ptrdiff_t>((sequence + 1) * 32)},
                  1e-5);
    }
  }
}

TEST_P(DecoderTest, ATokenDoesNotChangeWhatStandsBeforeIt) {
  const ModelDirectory model = open(kTinyLlama);
  const std::vector<float> before = final_states(model, kTokens, 12);
  auto changed_tokens = kTokens;
  changed_tokens[8] = 0;
  const std::vector<float> after = final_states(model, changed_tokens, 12);
  for (std::size_t i = 0; i < 8 * 8; ++i) EXPECT_EQ(before[i], after[i]) << i;
  EXPECT_NE(before[8 * 8], after[8 * 8]);
  EXPECT_NE(before[11 * 8], after[11 * 8]);
}

TEST_P(DecoderTest, ThePiecesInTurnAreTheWholeBlock) {
  for (const std::string& config :
       {kTinyLlama, kTinyOpt, with(kTinyOpt, R"("do_layer_norm_before":false)")}) {
    const ModelDirectory model = open(config);
    const Architecture& a = model.architecture();
    const BlockWeights weights = load_block(model, 1, *backend_);
    BlockForward forward(*backend_, a, 4, 12);
    const Tensor whole = embedded(model, kTokens, 4);
    forward.forward(weights, whole);
    const Tensor x = embedded(model, kTokens, 4);
    const Tensor h = backend_->allocate(12, a.hidden_size);
    const Tensor attended = backend_->allocate(12, a.heads * a.head_dim);
    const Tensor m = backend_->allocate(12, a.intermediate_size);
    forward.attention_input(weights, x, h);
    forward.attention(weights, h, attended);
    forward.attention_output(weights, attended, x);
    forward.mlp_input(weights, x, h);
    forward.mlp_hidden(weights, h, m);
    forward.mlp_output(weights, m, x);
    EXPECT_EQ(to_host(*backend_, x), to_host(*backend_, whole));
  }
}

TEST_P(DecoderTest, PostNormBlocksPassTheirInputUnchangedAndNormTheirOutput) {
  const ModelDirectory model =
      open(with(kTinyOpt, R"("do_layer_norm_before":false,"layer_norm_elementwise_affine":false)"));
  const BlockWeights weights = load_block(model, 0, *backend_);
  BlockForward forward(*backend_, model.architecture(), 4, 4);
  const Tensor x = embedded(model, std::span(kTokens).first(4), 4);
  const Tensor h = backend_->allocate(4, 8);
  forward.attention_input(weights, x, h);
  EXPECT_EQ(to_host(*backend_, h), to_host(*backend_, x));
  forward.forward(weights, x);
  const std::vector<float> out = to_host(*backend_, x);
  for (std::size_t row = 0; row < 4; ++row) {
    double sum = 0;
    double squares = 0;
    for (std::size_t j = 0; j < 8; ++j) {
      sum += out[row * 8 + j];
      squares += static_cast<double>(out[row * 8 + j]) * out[row * 8 + j];
    }
    EXPECT_NEAR(sum, 0.0, 1e-5);
    EXPECT_NEAR(squares, 8.0, 1e-2);
  }
}

TEST_P(DecoderTest, NormsWithoutWeightsAreNormsWithWeightOneAndBiasZero) {
  const std::string plain = with(kTinyOpt, R"("layer_norm_elementwise_affine":false)");
  auto tensors = test::tiny_tensors(kTinyOpt);
  std::vector<TinyTensor> without;
  for (TinyTensor& tensor : tensors) {
    if (tensor.name.find("layer_norm") == std::string::npos) {
      without.push_back(tensor);
    } else {
      std::fill(tensor.values.begin(), tensor.values.end(), tensor.name.ends_with("weight") ? 1.0F : 0.0F);
    }
  }
  EXPECT_EQ(final_states(open(plain, without), kTokens, 4),
            final_states(open(kTinyOpt, tensors), kTokens, 4));
}

TEST_P(DecoderTest, AModelWithoutFinalNormHandsItsStatesStraightToTheHead) {
  const ModelDirectory model = open(with(kTinyOpt, R"("_remove_final_layer_norm":true)"));
  LanguageHead head(model, *backend_);
  const Tensor x = backend_->allocate(1, 8);
  std::vector<float> unit(8, 0.0F);
  unit[2] = 2.0F;
  backend_->copy_in(std::span<const float>(unit), x);
  const Tensor logits = backend_->allocate(1, 11);
  head.logits(x, logits);
  const std::vector<float> found = to_host(*backend_, logits);
  const auto tensors = test::tiny_tensors(kTinyOpt);
  for (std::size_t token = 0; token < 11; ++token)
    EXPECT_FLOAT_EQ(found[token], 2.0F * tensors[0].values[token * 8 + 2]);
}

TEST_P(DecoderTest, LikelihoodsAreThoseOfTheLogitsAcrossChunks) {
  const ModelDirectory model = open(kTinyLlama);
  const std::int64_t length = 4;
  const std::int64_t rows = 260;  // more than a chunk of 256 rows, and its end inside a sequence's neighbour
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < rows; ++i) tokens.push_back(static_cast<std::int32_t>((i * 7 + i / 5) % 11));
  const Tensor x = embedded(model, tokens, length);
  LanguageHead head(model, *backend_);
  const Tensor logits = backend_->allocate(rows, 11);
  head.logits(x, logits);
  const std::vector<float> host = to_host(*backend_, logits);
  std::vector<double> nll(tokens.size(), -1.0);
  head.token_nll(x, tokens, length, nll);
  for (std::size_t row = 0; row < tokens.size(); ++row) {
    if ((row + 1) % 4 == 0) {
      EXPECT_EQ(nll[row], 0.0);
      continue;
    }
    double sum = 0;
    for (std::size_t token = 0; token < 11; ++token)
      sum += std::exp(static_cast<double>(host[row * 11 + token]));
    const double expected =
        std::log(sum) - static_cast<double>(host[row * 11 + static_cast<std::size_t>(tokens[row + 1])]);
    EXPECT_NEAR(nll[row], expected, 1e-5) << row;
  }
}

TEST_P(DecoderTest, ASequenceOfOneTokenPredictsNothing) {
  const ModelDirectory model = open(kTinyLlama);
  const std::vector<std::int32_t> tokens = {7, 2};
  const Tensor x = embedded(model, tokens, 1);
  BlockForward(*backend_, model.architecture(), 1, 2).forward(load_block(model, 0, *backend_), x);
  std::vector<double> nll(2, -1.0);
  LanguageHead(model, *backend_).token_nll(x, tokens, 1, nll);
  EXPECT_EQ(nll, (std::vector<double>{0.0, 0.0}));
}

TEST_P(DecoderTest, EmbeddingsAreLookedUpRowByRow) {
  const auto tensors = test::tiny_tensors(kTinyLlama);
  const ModelDirectory model = open(kTinyLlama, tensors);
  const std::vector<float>& table = tensors.front().values;
  ASSERT_EQ(tensors.front().name, "model.embed_tokens.weight");
  const std::vector<std::int32_t> tokens = {10, 0, 10, 3, 10, 1};
  const std::vector<float> out = to_host(*backend_, embedded(model, tokens, 3));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    for (std::size_t j = 0; j < 8; ++j)
      EXPECT_EQ(out[i * 8 + j], table[static_cast<std::size_t>(tokens[i]) * 8 + j]);
  for (const std::int32_t bad : {-1, 11}) {
    const std::vector<std::int32_t> outside = {0, bad, 0};
    EXPECT_THROW(static_cast<void>(embedded(model, outside, 3)), LogicError);
  }
}

TEST_P(DecoderTest, ANaNInAnEmbeddingThatIsUsedIsNamed) {
  auto tensors = test::tiny_tensors(kTinyLlama);
  named(tensors, "model.embed_tokens.weight").values[3 * 8 + 1] = std::numeric_limits<float>::quiet_NaN();
  const ModelDirectory model = open(kTinyLlama, tensors);
  const std::vector<std::int32_t> good = {2, 4, 2, 2};
  EXPECT_NO_THROW(static_cast<void>(embedded(model, good, 2)));
  const std::vector<std::int32_t> bad = {2, 4, 2, 3};
  expect_error<NumericalError>([&] { static_cast<void>(embedded(model, bad, 2)); },
                               {"model.safetensors", "model.embed_tokens.weight", "row 3"});
}

TEST_P(DecoderTest, WeightsThatAreNotFiniteAreNamedWithTheirElement) {
  const float values[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()};
  for (const float value : values) {
    auto tensors = test::tiny_tensors(kTinyLlama);
    named(tensors, "model.layers.1.mlp.up_proj.weight").values[3 * 8 + 5] = value;
    named(tensors, "lm_head.weight").values[0] = value;
    const ModelDirectory model = open(kTinyLlama, tensors);
    EXPECT_NO_THROW(static_cast<void>(load_block(model, 0, *backend_)));
    expect_error<NumericalError>([&] { static_cast<void>(load_block(model, 1, *backend_)); },
                                 {"model.safetensors", "'model.layers.1.mlp.up_proj.weight'", "[3, 5]"});
    expect_error<NumericalError>([&] { LanguageHead(model, *backend_); }, {"'lm_head.weight'", "[0, 0]"});
  }
}

TEST_P(DecoderTest, ActivationsThatAreNotFiniteEndTheEvaluation) {
  const ModelDirectory model = open(kTinyLlama);
  LanguageHead head(model, *backend_);
  const Tensor x = embedded(model, kTokens, 4);
  backend_->fill(x.view().row_range(5, 1), std::numeric_limits<float>::quiet_NaN());
  std::vector<double> nll(kTokens.size());
  expect_error<NumericalError>([&] { head.token_nll(x, kTokens, 4, nll); }, {"token 5"});
}

TEST_P(DecoderTest, LearnedPositionsEndWhereTheTableEnds) {
  const ModelDirectory model = open(kTinyOpt);
  const std::vector<std::int32_t> tokens(17, 1);
  EXPECT_NO_THROW(static_cast<void>(embedded(model, std::span(tokens).first(16), 16)));
  expect_error<ModelError>([&] { static_cast<void>(embedded(model, tokens, 17)); },
                           {"17 tokens", "16 positions"});
}

TEST_P(DecoderTest, BrokenPreconditionsAreReported) {
  const ModelDirectory model = open(kTinyLlama);
  const Architecture& a = model.architecture();
  EXPECT_THROW(static_cast<void>(load_block(model, 2, *backend_)), LogicError);
  EXPECT_THROW(static_cast<void>(load_block(model, -1, *backend_)), LogicError);
  EXPECT_THROW(BlockForward(*backend_, a, 4, 6), LogicError);
  EXPECT_THROW(BlockForward(*backend_, a, 0, 4), LogicError);
  EXPECT_THROW(BlockForward(*backend_, a, 4, 0), LogicError);
  BlockForward forward(*backend_, a, 4, 8);
  EXPECT_EQ(forward.max_rows(), 8);
  const BlockWeights weights = load_block(model, 0, *backend_);
  const Tensor x = embedded(model, kTokens, 4);
  EXPECT_THROW(forward.forward(weights, x), LogicError);                         // 12 rows > max_rows
  EXPECT_THROW(forward.forward(weights, x.view().row_range(0, 3)), LogicError);  // no whole sequence
  EXPECT_THROW(embed(model, kTokens, 5, *backend_, x), LogicError);
  EXPECT_THROW(embed(model, {}, 4, *backend_, x), LogicError);
  EXPECT_THROW(embed(model, kTokens, 4, *backend_, x.view().row_range(0, 8)), LogicError);
  LanguageHead head(model, *backend_);
  std::vector<double> nll(kTokens.size());
  EXPECT_THROW(head.token_nll(x, kTokens, 5, nll), LogicError);
  EXPECT_THROW(head.token_nll(x, std::span(kTokens).first(8), 4, nll), LogicError);
  EXPECT_THROW(head.token_nll(x, kTokens, 4, std::span(nll).first(8)), LogicError);
  EXPECT_THROW(head.logits(x, x), LogicError);
}

TEST_P(DecoderTest, MemoryOfAForwardPassDoesNotGrowWithItsCalls) {
  const ModelDirectory model = open(kTinyLlama);
  const BlockWeights weights = load_block(model, 0, *backend_);
  BlockForward forward(*backend_, model.architecture(), 4, 12);
  const Tensor x = embedded(model, kTokens, 4);
  forward.forward(weights, x);
  const std::int64_t after_first = backend_->allocated_bytes();
  const std::int64_t peak = backend_->peak_bytes();
  for (int i = 0; i < 3; ++i) forward.forward(weights, x);
  EXPECT_EQ(backend_->allocated_bytes(), after_first);
  EXPECT_EQ(backend_->peak_bytes(), peak);
}

}  // namespace
}  // namespace fedspallm::model
