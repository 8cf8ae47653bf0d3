// SPDX-License-Identifier: Apache-2.0
// Purpose: families of models as data. One description, read from config.json, drives loading, the forward
// pass and pruning; there is no code per family outside the table in architecture.cpp. What is not
// implemented is refused, never ignored (rulings.md 20). Non-goals: weights (model_directory.hpp), the
// forward pass (decoder.hpp).
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fedspallm::model {

enum class NormKind { rms, layer };
enum class MlpKind { gated_silu, relu, gelu };
enum class RopeKind { none, standard, linear, llama3 };

/// Matrices that share an input share a Hessian: they are one input group of a decoder block, in this order.
enum class InputGroup : std::uint8_t { qkv = 0, attention_output = 1, mlp_in = 2, mlp_out = 3 };
constexpr int kInputGroups = 4;
/// Learned positions (OPT): position p has row p + 2 of the table.
constexpr std::int64_t kPositionOffset = 2;

enum class MatrixRole : std::uint8_t { query, key, value, attention_output, gate, up, down };

/// One prunable linear weight of a decoder block.
struct MatrixShape {
  MatrixRole role;
  InputGroup group;
  std::string suffix;     // "self_attn.q_proj"; the tensor is block_prefix + index + "." + suffix + ".weight"
  std::int64_t rows = 0;  // out features
  std::int64_t cols = 0;  // in features
  bool bias = false;
};

struct Rope {
  RopeKind kind = RopeKind::none;
  double theta = 10000.0;
  double factor = 1.0;
  double low_frequency_factor = 1.0;   // llama3
  double high_frequency_factor = 4.0;  // llama3
  std::int64_t original_max_positions = 0;
};

struct Architecture {
  std::string family;  // "llama", "opt", ...
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t embedding_size = 0;  // OPT word_embed_proj_dim; else hidden_size
  std::int64_t intermediate_size = 0;
  std::int64_t blocks = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_positions = 0;
  NormKind norm = NormKind::rms;
  double norm_epsilon = 1e-6;
  bool norm_affine = true;        // norms have a weight (OPT's layer_norm_elementwise_affine)
  bool norm_affine_bias = false;  // ... and a bias (LayerNorm)
  bool norm_before = true;        // false: post-LN (OPT-350m)
  bool final_norm = true;
  bool head_norms = false;         // Qwen3 q_norm, k_norm
  bool learned_positions = false;  // OPT, rows offset by 2
  MlpKind mlp = MlpKind::gated_silu;
  Rope rope;
  std::vector<std::int64_t> window;  // per block; 0 = full attention
  bool tied_head =
      false;  // config.json's tie_word_embeddings; in a ModelDirectory: the head is the embedding matrix
  std::vector<MatrixShape> matrices;  // of one block, in the order q, k, v, o, (gate, up | fc1), (down | fc2)

  // Tensor names with their usual "model."; a ModelDirectory takes it off where the files lack it (OPT occurs
  // both ways). Norms are stems: ".weight" and ".bias" follow. Names of what a model does not have are empty.
  std::string block_prefix;  // "model.layers."
  std::string embedding_name, position_name, head_name, final_norm_name, project_in_name, project_out_name;
  std::string attention_norm_suffix, mlp_norm_suffix, query_norm_suffix, key_norm_suffix;
};

/// Reads config.json (transformers 4 and 5 spellings). @throws ModelError: file, key, found, expected, known
/// families.
[[nodiscard]] Architecture read_architecture(const std::filesystem::path& config_json);
/// The same from text (the fuzz target's entry).
[[nodiscard]] Architecture parse_architecture(const std::string& text, const std::string& file_name);
/// Full tensor name of a prunable matrix: "model.layers.3.mlp.up_proj.weight". @pre it is one of the model's
[[nodiscard]] std::string matrix_name(const Architecture& architecture, std::int64_t block,
                                      std::size_t matrix);

/// Cosine and sine, positions x head_dim/2 each, row-major, as transformers computes them in fp32. Empty
/// without RoPE.
struct RopeTables {
  std::vector<float> cosine, sine;
};
[[nodiscard]] RopeTables rope_tables(const Architecture& architecture, std::int64_t positions);

}  // namespace fedspallm::model
