// SPDX-License-Identifier: Apache-2.0
// Purpose: model directories of a few hundred weights for tests, for any config.json: every tensor that the
// configuration asks for, with keyed random values.
#pragma once

#include "fedspallm/base/random.hpp"
#include "fedspallm/model/architecture.hpp"

#include "support/safetensors_builder.hpp"
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace fedspallm::test {

struct TinyTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

inline const std::string kTinyLlama =
    R"({"model_type":"llama","vocab_size":11,"hidden_size":8,"intermediate_size":12,
  "num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"max_position_embeddings":16})";

inline const std::string kTinyOpt = R"({"model_type":"opt","vocab_size":11,"hidden_size":8,"ffn_dim":12,
  "num_hidden_layers":2,"num_attention_heads":2,"max_position_embeddings":16})";

/// All tensors of the architecture; weights in [-0.5, 0.5), norm weights in [0.5, 1.5).
inline std::vector<TinyTensor> tiny_tensors(const model::Architecture& a, std::uint64_t seed = 1) {
  std::vector<TinyTensor> tensors;
  const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape, float middle) {
    TinyTensor tensor{name, shape, {}};
    std::int64_t size = 1;
    for (const std::int64_t extent : shape) size *= extent;
    const RandomKey key{
        .seed = seed, .use = RandomUse::simulation, .block = static_cast<std::uint32_t>(tensors.size())};
    for (std::int64_t i = 0; i < size; ++i) {
      const auto bits = random_bits(key, static_cast<std::uint64_t>(i)) >> 40;
      tensor.values.push_back(static_cast<float>(bits) / static_cast<float>(1 << 24) - 0.5F + middle);
    }
    tensors.push_back(std::move(tensor));
  };
  const auto add_norm = [&](const std::string& stem, std::int64_t width) {
    if (a.norm_affine) add(stem + ".weight", {width}, 1.0F);
    if (a.norm_affine_bias) add(stem + ".bias", {width}, 0.0F);
  };
  add(a.embedding_name, {a.vocab_size, a.embedding_size}, 0.0F);
  if (!a.tied_head) add(a.head_name, {a.vocab_size, a.embedding_size}, 0.0F);
  if (a.learned_positions) add(a.position_name, {a.max_positions + 2, a.hidden_size}, 0.0F);
  if (!a.project_in_name.empty()) add(a.project_in_name, {a.hidden_size, a.embedding_size}, 0.0F);
  if (!a.project_out_name.empty()) add(a.project_out_name, {a.embedding_size, a.hidden_size}, 0.0F);
  if (a.final_norm) add_norm(a.final_norm_name, a.hidden_size);
  for (std::int64_t block = 0; block < a.blocks; ++block) {
    const std::string prefix = a.block_prefix + std::to_string(block) + ".";
    for (const auto& matrix : a.matrices) {
      add(prefix + matrix.suffix + ".weight", {matrix.rows, matrix.cols}, 0.0F);
      if (matrix.bias) add(prefix + matrix.suffix + ".bias", {matrix.rows}, 0.0F);
    }
    add_norm(prefix + a.attention_norm_suffix, a.hidden_size);
    add_norm(prefix + a.mlp_norm_suffix, a.hidden_size);
    if (a.head_norms) {
      add(prefix + a.query_norm_suffix + ".weight", {a.head_dim}, 1.0F);
      add(prefix + a.key_norm_suffix + ".weight", {a.head_dim}, 1.0F);
    }
  }
  return tensors;
}

inline std::vector<TinyTensor> tiny_tensors(const std::string& config) {
  return tiny_tensors(model::parse_architecture(config, "config.json"));
}

/// config.json and model.safetensors in `folder`.
inline void write_tiny_model(const std::filesystem::path& folder, const std::string& config,
                             const std::vector<TinyTensor>& tensors) {
  std::filesystem::create_directories(folder);
  write_file(folder / "config.json", config);
  SafetensorsBuilder builder;
  for (const TinyTensor& tensor : tensors) builder.add(tensor.name, tensor.shape, tensor.values);
  builder.write(folder / "model.safetensors");
}

inline void write_tiny_model(const std::filesystem::path& folder, const std::string& config) {
  write_tiny_model(folder, config, tiny_tensors(config));
}

}  // namespace fedspallm::test
