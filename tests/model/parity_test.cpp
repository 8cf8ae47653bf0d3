// SPDX-License-Identifier: Apache-2.0
// The forward pass against transformers' own logits and likelihoods (tests/data/README.md), on every backend.
#include "fedspallm/base/error.hpp"
#include "fedspallm/model/decoder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/backends.hpp"
#include "support/support.hpp"
#include <cmath>
#include <cstring>
#include <filesystem>
#include <tuple>

namespace fedspallm::model {
namespace {

// rulings.md 31: logits 2e-5, likelihoods 1e-5 relative.
constexpr double kLogitTolerance = 2e-5;
constexpr double kLikelihoodTolerance = 1e-5;

/// Every directory that has to be there; a missing or an unlisted one fails.
const std::vector<std::string> kGoldens = {
    "fixtures/llama-gqa-tied",
    "fixtures/opt",
    "goldens/llama-biases",
    "goldens/llama-fp16",
    "goldens/llama-linear-rope",
    "goldens/llama-llama3-rope",
    "goldens/llama-sharded",
    "goldens/llama-transformers4",
    "goldens/mistral",
    "goldens/opt-no-bias-gelu",
    "goldens/opt-post-norm-projection",
    "goldens/opt-projection",
    "goldens/qwen2",
    "goldens/qwen2-sliding",
    "goldens/qwen2-sliding-transformers4",
    "goldens/qwen3",
};

TEST(Parity, CoversEveryGoldenDirectory) {
  std::vector<std::string> found;
  for (const char* parent : {"fixtures", "goldens"})
    for (const auto& entry : std::filesystem::directory_iterator(test::data_path(parent)))
      if (entry.is_directory()) found.push_back(std::string(parent) + "/" + entry.path().filename().string());
  EXPECT_THAT(found, testing::UnorderedElementsAreArray(kGoldens));
}

/// Reads tensors of expected.safetensors, of any element type of the same size.
class Expected {
 public:
  explicit Expected(const std::filesystem::path& folder) : file_(folder / "expected.safetensors") {}
  template <class T>
  [[nodiscard]] std::vector<T> read(const std::string& name, const std::string& dtype) const {
    const TensorEntry* entry = file_.find(name);
    if (entry == nullptr || entry->dtype_name != dtype)
      throw std::runtime_error(name + " is not in " + file_.path().string());
    const auto bytes = file_.data(*entry);
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  [[nodiscard]] std::vector<std::int64_t> shape(const std::string& name) const {
    return file_.find(name)->shape;
  }

 private:
  SafetensorsFile file_;
};

class ParityWithTransformers : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  std::filesystem::path folder_ = test::data_path(std::get<0>(GetParam()));
  std::unique_ptr<backend::Backend> backend_ = test::make_backend(std::get<1>(GetParam()));

  /// Hidden states after the last block, for `tokens` of whole sequences.
  [[nodiscard]] backend::Tensor hidden_states(const ModelDirectory& model,
                                              const std::vector<std::int32_t>& tokens,
                                              std::int64_t length) const {
    const auto rows = static_cast<std::int64_t>(tokens.size());
    backend::Tensor x = backend_->allocate(rows, model.architecture().hidden_size);
    embed(model, tokens, length, *backend_, x);
    // Two batches where there are two sequences, so that the seam between batches is covered.
    const std::int64_t batch = (rows / length + 1) / 2 * length;
    BlockForward block_forward(*backend_, model.architecture(), length, batch);
    for (std::int64_t block = 0; block < model.architecture().blocks; ++block) {
      const BlockWeights weights = load_block(model, block, *backend_);
      for (std::int64_t first = 0; first < rows; first += batch)
        block_forward.forward(weights, x.view().row_range(first, std::min(batch, rows - first)));
    }
    return x;
  }
};

TEST_P(ParityWithTransformers, LogitsAndLikelihoodsAgree) {
  const ModelDirectory model(folder_);
  const Expected expected(folder_);
  const auto tokens = expected.read<std::int32_t>("tokens.0", "I32");
  const std::int64_t length = expected.shape("tokens.0").at(1);
  const auto reference_logits = expected.read<float>("dense.logits.0", "F32");
  const auto reference_nll = expected.read<float>("dense.nll.0", "F32");
  const backend::Tensor x = hidden_states(model, tokens, length);

  LanguageHead head(model, *backend_);
  const std::int64_t logit_rows = 2 * length;
  const backend::Tensor logits = backend_->allocate(logit_rows, model.architecture().vocab_size);
  head.logits(x.view().row_range(0, logit_rows), logits);
  const std::vector<float> found = test::to_host(*backend_, logits);
  ASSERT_EQ(found.size(), reference_logits.size());
  double worst = 0;
  for (std::size_t i = 0; i < found.size(); ++i)
    worst =
        std::max(worst, std::abs(static_cast<double>(found[i]) - static_cast<double>(reference_logits[i])));
  EXPECT_LE(worst, kLogitTolerance);

  std::vector<double> nll(tokens.size());
  head.token_nll(x, tokens, length, nll);
  double sum = 0;
  std::int64_t predictions = 0;
  for (std::size_t i = 0; i < nll.size(); ++i) {
    const bool last = static_cast<std::int64_t>(i + 1) % length == 0;
    EXPECT_TRUE(!last || nll[i] == 0.0);
    sum += nll[i];
    predictions += last ? 0 : 1;
  }
  const double mean = sum / static_cast<double>(predictions);
  EXPECT_NEAR(mean, static_cast<double>(reference_nll.at(0)),
              kLikelihoodTolerance * static_cast<double>(reference_nll.at(0)));
}

INSTANTIATE_TEST_SUITE_P(Goldens, ParityWithTransformers,
                         testing::Combine(testing::ValuesIn(kGoldens),
                                          testing::ValuesIn(test::backend_names())),
                         [](const auto& parameters) {
                           std::string name =
                               std::get<0>(parameters.param) + "_" + std::get<1>(parameters.param);
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return c == '/' || c == '-'; }, '_');
                           return name;
                         });

}  // namespace
}  // namespace fedspallm::model
