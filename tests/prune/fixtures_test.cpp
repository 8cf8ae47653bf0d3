// SPDX-License-Identifier: Apache-2.0
// The published SparseGPT on tiny models (tests/data/README.md): masks and surviving weights (rulings.md 31);
// and what a pruner of such a model refuses.
#include "fedspallm/base/error.hpp"
#include "fedspallm/prune/block_pruner.hpp"

#include "prune_support.hpp"
#include "support/support.hpp"
#include <cmath>
#include <cstring>

namespace fedspallm::prune {
namespace {

struct Case {
  std::string model;
  std::string prefix;  // key prefix in expected.safetensors
  config::Pattern pattern;
  std::int64_t blocks;
  std::int64_t weights_of_block;  // that are pruned, by hand
};

void PrintTo(const Case& value, std::ostream* stream) {
  *stream << value.model << ' ' << value.prefix;
}

std::vector<float> read(const model::SafetensorsFile& file, const std::string& name) {
  const model::TensorEntry* entry = file.find(name);
  if (entry == nullptr || !entry->dtype) return {};
  const auto bytes = file.data(*entry);
  std::vector<float> values(bytes.size() / size_of(*entry->dtype));
  widen(*entry->dtype, bytes.data(), values.data(), values.size());
  return values;
}

data::Windows tokens(const model::SafetensorsFile& file, int client) {
  const model::TensorEntry* entry = file.find("tokens." + std::to_string(client));
  data::Windows windows{entry->shape[0], entry->shape[1],
                        std::vector<std::int32_t>(file.data(*entry).size() / 4)};
  std::memcpy(windows.tokens.data(), file.data(*entry).data(), windows.tokens.size() * 4);
  return windows;
}

class PublishedFixture : public testing::TestWithParam<std::tuple<std::string, Case>> {};

TEST_P(PublishedFixture, masks_and_weights_agree_with_the_published_code) {
  const auto& [backend_name, test] = GetParam();
  const auto backend = make_backend(backend_name);
  const auto folder = test::data_path("fixtures/" + test.model);
  const model::ModelDirectory model(folder);
  const model::SafetensorsFile expected(folder / "expected.safetensors");
  const data::Windows windows = tokens(expected, 0);
  Workspace workspace(*backend, model.architecture(), windows.length);
  BlockPruner pruner(*backend, model, workspace, windows,
                     {.client = 0, .name = "fixture", .seed = 1, .send_diagonal = false});
  const Settings settings{.sparsity = 0.5,
                          .pattern = test.pattern,
                          .order = config::Order::block,
                          .count = config::Count::published};
  const auto& matrices = model.architecture().matrices;
  const std::vector<DType> dtypes(matrices.size(), DType::f32);
  std::int64_t compared = 0, differing = 0;
  for (std::int64_t block = 0; block < test.blocks; ++block) {
    model::BlockWeights weights = model::load_block(model, block, *backend);
    pruner.prune_block(settings, 1, weights, dtypes, {}, [&](std::size_t matrix, wire::MatrixUpdate update) {
      const std::string key = test.prefix + std::to_string(block) + "." + matrices[matrix].suffix;
      const std::vector<float> wanted = read(expected, key);
      ASSERT_EQ(std::ssize(wanted), update.matrix.size()) << key;
      std::vector<float> found(wanted.size());
      wire::unpack(update.matrix, found);
      std::int64_t different = 0;
      double error = 0, norm = 0;
      for (std::int64_t r = 0; r < update.matrix.rows; ++r) {
        std::int64_t row_different = 0;
        double row_error = 0, row_norm = 0;
        for (std::int64_t i = r * update.matrix.cols; i < (r + 1) * update.matrix.cols; ++i) {
          row_different += (found[i] == 0) != (wanted[i] == 0) ? 1 : 0;
          row_error += std::pow(double{found[i]} - wanted[i], 2);
          row_norm += std::pow(double{wanted[i]}, 2);
        }
        different += row_different;
        if (row_different == 0) {  // one flipped near-tie changes the rest of its row
          error += row_error;
          norm += row_norm;
        }
      }
      const auto size = static_cast<double>(wanted.size());
      EXPECT_LE(static_cast<double>(different), (block == 0 ? 0.0001 : 0.002) * size) << key;
      EXPECT_LE(std::sqrt(error / norm), block == 0 ? 1e-4 : 3e-3) << key;
      compared += static_cast<std::int64_t>(wanted.size());
      differing += different;
    });
  }
  EXPECT_EQ(compared, test.blocks * test.weights_of_block);
  EXPECT_LE(static_cast<double>(differing), 0.001 * static_cast<double>(compared));
}

class Preconditions : public OnBothBackends {};
INSTANTIATE_TEST_SUITE_P(Backends, Preconditions, testing::ValuesIn(test::backend_names()));

TEST_P(Preconditions, of_a_blocks_pruner_are_checked) {
  const auto folder = test::data_path("fixtures/opt");
  const model::ModelDirectory model(folder);
  const data::Windows windows = tokens(model::SafetensorsFile(folder / "expected.safetensors"), 0);
  const std::size_t count = model.architecture().matrices.size();
  Workspace workspace(*backend_, model.architecture(), windows.length);
  const BlockPruner::Identity identity{.client = 0, .name = "fixture"};
  Workspace longer(*backend_, model.architecture(), windows.length + 1);
  EXPECT_THROW(BlockPruner(*backend_, model, longer, windows, identity), LogicError);
  EXPECT_THROW(BlockPruner(*backend_, model, workspace, {0, windows.length, {}}, identity), LogicError);

  BlockPruner pruner(*backend_, model, workspace, windows, identity);
  data::Windows fewer = windows;
  fewer.tokens.resize(static_cast<std::size_t>(--fewer.samples * fewer.length));
  EXPECT_THROW(pruner.restart(fewer), LogicError);
  model::BlockWeights weights = model::load_block(model, 0, *backend_);
  const auto prune = [&](const std::vector<DType>& dtypes, const PreviousMasks& previous) {
    pruner.prune_block({}, 1, weights, dtypes, previous, [](std::size_t, const wire::MatrixUpdate&) {});
  };
  EXPECT_THROW(prune(std::vector<DType>(count - 1, DType::f32), {}), LogicError);
  EXPECT_THROW(prune(std::vector<DType>(count, DType::f32), PreviousMasks(count + 1)), LogicError);
}

constexpr std::int64_t kLlama = 3 * 136 * 72 + 2 * 72 * 72 + 2 * 24 * 72, kOpt = 2 * 256 * 64 + 4 * 64 * 64;
INSTANTIATE_TEST_SUITE_P(
    All, PublishedFixture,
    testing::Combine(testing::ValuesIn(test::backend_names()),
                     testing::Values(Case{"llama-gqa-tied", "sparsegpt50.0.", {}, 2, kLlama},
                                     Case{"llama-gqa-tied", "sparsegpt24.0.", {2, 4}, 1, kLlama},
                                     Case{"opt", "sparsegpt50.0.", {}, 1, kOpt})));

}  // namespace
}  // namespace fedspallm::prune
