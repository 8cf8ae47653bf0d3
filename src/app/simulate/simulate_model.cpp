// SPDX-License-Identifier: Apache-2.0
#include "simulate_model.hpp"

#include "fedspallm/base/error.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>

namespace fedspallm::app {

namespace {

/// The published sizes, as their config.json has them.
std::string known_config(config::ModelShape shape) {
  struct Sizes {
    int hidden, intermediate, heads, kv_heads, layers, vocabulary;
  };
  const auto text = [](const Sizes& sizes) {
    return fmt::format(
        R"({{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "hidden_size": {}, "intermediate_size": {}, "num_attention_heads": {}, "num_key_value_heads": {},
            "num_hidden_layers": {}, "vocab_size": {}, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}})",
        sizes.hidden, sizes.intermediate, sizes.heads, sizes.kv_heads, sizes.layers, sizes.vocabulary);
  };
  switch (shape) {
    case config::ModelShape::smollm2_135m:
      return text({576, 1536, 9, 3, 30, 49152});
    case config::ModelShape::llama2_7b:
      return text({4096, 11008, 32, 32, 32, 32000});
    case config::ModelShape::llama2_70b:
      return text({8192, 28672, 64, 8, 80, 32000});
    case config::ModelShape::of_path:
      break;
  }
  throw LogicError("known_config: the shape of a model known by name");
}

std::string read_text(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  check<ModelError>(stream.good(),
                    fmt::format("{}: cannot be read; expected a model's config.json", file.string()));
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// transformers 5 says "dtype", 4 "torch_dtype"; what says nothing is float32 there.
DType stored_dtype(const std::string& text) {
  const nlohmann::json object = nlohmann::json::parse(text);
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!object.contains(key) || !object[key].is_string()) continue;
    const std::string name = object[key];
    if (name == "bfloat16") return DType::bf16;
    if (name == "float16") return DType::f16;
  }
  return DType::f32;
}

}  // namespace

SimulatedModel simulated_model(const config::Config& config) {
  require(config.simulate.has_value(), "simulated_model: the configuration has [simulate]");
  SimulatedModel result;
  std::string text, file;
  if (config.simulate->shape == config::ModelShape::of_path) {
    check<ConfigError>(!config.model.path.empty(), "model.path: expected a folder with config.json");
    const bool is_file = config.model.path.extension() == ".json";
    file = is_file ? config.model.path.string() : (config.model.path / "config.json").string();
    result.name = is_file ? config.model.path.parent_path().filename() : config.model.path.filename();
    text = read_text(file);
  } else {
    result.name = config::name_of(config.simulate->shape);
    file = result.name;
    text = known_config(config.simulate->shape);
  }
  result.architecture = model::parse_architecture(text, file);
  const bool widened = config.model.dtype == config::ModelDType::float32;
  result.dtype = widened ? DType::f32 : stored_dtype(text);
  return result;
}

PlanModel SimulatedModel::plan_model() const {
  return {architecture, [dtype = dtype](std::int64_t, std::size_t) { return dtype; }};
}

std::int64_t SimulatedModel::block_weights() const {
  std::int64_t weights = 0;
  for (const model::MatrixShape& matrix : architecture.matrices) weights += matrix.rows * matrix.cols;
  return weights;
}

BlockWork block_work(const model::Architecture& architecture, const config::Calibration& calibration) {
  const auto length = static_cast<double>(calibration.sequence_length);
  const double tokens = static_cast<double>(calibration.samples) * length;
  const auto attended = static_cast<double>(architecture.heads * architecture.head_dim);
  BlockWork work;
  // Causal attention: scores and sums of values, each over half of the length.
  work.pass = 2 * tokens * length * attended;
  std::array<bool, model::kInputGroups> seen{};
  for (const model::MatrixShape& matrix : architecture.matrices) {
    const auto rows = static_cast<double>(matrix.rows), cols = static_cast<double>(matrix.cols);
    work.pass += 2 * tokens * rows * cols;
    work.prune += rows * cols * cols;  // the sweep: each column's error along half of a row of U
    auto& known = seen.at(static_cast<std::size_t>(matrix.group));
    if (std::exchange(known, true)) continue;
    work.prune += tokens * cols * cols;          // the Hessian, one triangle
    work.prune += 2.0 / 3 * cols * cols * cols;  // its factor and the inverse of that
  }
  work.prune += work.pass;
  return work;
}

}  // namespace fedspallm::app
