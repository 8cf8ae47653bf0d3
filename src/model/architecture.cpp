// SPDX-License-Identifier: Apache-2.0
// The table of families, and config.json read by it. Defaults are those of transformers' configuration
// classes.
#include "fedspallm/model/architecture.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/model/json_text.hpp"

#include "config_reader.hpp"
#include "rope.hpp"
#include <algorithm>
#include <array>
#include <string_view>

namespace fedspallm::model {

namespace {

// Far above any model, and small enough that products of three sizes stay below 2^63.
constexpr std::int64_t kLargestWidth = std::int64_t{1} << 20;
constexpr std::int64_t kLargestVocabulary = std::int64_t{1} << 24;
constexpr std::int64_t kMostBlocks = std::int64_t{1} << 14;
constexpr std::int64_t kMostPositions = std::int64_t{1} << 31;

/// Whether linear layers have a bias: by the key, where the family has one, else always the fallback.
struct BiasRule {
  const char* key;
  bool fallback;
};

enum class WindowRule { none, every_block, by_layer };

struct Family {
  std::string_view name;
  NormKind norm;
  bool gated;   // gate, up, down; else fc1, fc2
  bool rotary;  // else learned positions
  bool head_norms;
  BiasRule qkv_bias, output_bias, mlp_bias;
  WindowRule windows;
  const char* intermediate_key;
  const char* activation_key;
  std::string_view default_activation;
  std::int64_t default_kv_heads;  // where the key is absent; 0: as many as heads
  std::int64_t default_head_dim;  // where the key is absent; 0: hidden_size / heads
  std::int64_t default_max_positions;
  bool default_tied;
  std::string_view base;  // what all names but the head's begin with
  std::string_view output_suffix, attention_norm, mlp_norm, final_norm;
};

constexpr BiasRule kNoBias{nullptr, false};

constexpr Family llama_like(std::string_view name) {
  return {.name = name,
          .norm = NormKind::rms,
          .gated = true,
          .rotary = true,
          .head_norms = false,
          .qkv_bias = kNoBias,
          .output_bias = kNoBias,
          .mlp_bias = kNoBias,
          .windows = WindowRule::none,
          .intermediate_key = "intermediate_size",
          .activation_key = "hidden_act",
          .default_activation = "silu",
          .default_kv_heads = 0,
          .default_head_dim = 0,
          .default_max_positions = 2048,
          .default_tied = false,
          .base = "model.",
          .output_suffix = "self_attn.o_proj",
          .attention_norm = "input_layernorm",
          .mlp_norm = "post_attention_layernorm",
          .final_norm = "norm"};
}

constexpr Family llama() {
  Family family = llama_like("llama");
  family.qkv_bias = family.output_bias = {"attention_bias", false};
  family.mlp_bias = {"mlp_bias", false};
  return family;
}

constexpr Family mistral() {
  Family family = llama_like("mistral");
  family.windows = WindowRule::every_block;
  family.default_kv_heads = 8;
  family.default_max_positions = 131072;
  return family;
}

constexpr Family qwen2() {
  Family family = llama_like("qwen2");
  family.qkv_bias = {nullptr, true};
  family.windows = WindowRule::by_layer;
  family.default_kv_heads = 32;
  family.default_max_positions = 32768;
  return family;
}

constexpr Family qwen3() {
  Family family = qwen2();
  family.name = "qwen3";
  family.qkv_bias = family.output_bias = {"attention_bias", false};
  family.head_norms = true;
  family.default_head_dim = 128;
  return family;
}

constexpr Family opt() {
  Family family = llama_like("opt");
  family.norm = NormKind::layer;
  family.gated = false;
  family.rotary = false;
  family.qkv_bias = family.output_bias = family.mlp_bias = {"enable_bias", true};
  family.intermediate_key = "ffn_dim";
  family.activation_key = "activation_function";
  family.default_activation = "relu";
  family.default_tied = true;
  family.base = "model.decoder.";
  family.output_suffix = "self_attn.out_proj";
  family.attention_norm = "self_attn_layer_norm";
  family.mlp_norm = "final_layer_norm";
  family.final_norm = "final_layer_norm";
  return family;
}

constexpr std::array kFamilies = {llama(), mistral(), opt(), qwen2(), qwen3()};

const Family& find_family(const ConfigReader& config) {
  const std::string name = config.text("model_type");
  std::vector<std::string> known;
  for (const Family& family : kFamilies) {
    if (family.name == name) return family;
    known.emplace_back(family.name);
  }
  const std::string nearest = nearest_name(name, known.data(), known.size());
  config.fail("model_type", fmt::format("found \"{}\", known families are {}{}", name, fmt::join(known, ", "),
                                        nearest.empty() ? "" : fmt::format(" (nearest: {})", nearest)));
}

void refuse_what_is_not_implemented(const ConfigReader& config, const Family& family) {
  for (const char* key : {"quantization_config", "compression_config"})
    if (config.has(key))
      config.fail(
          key, "quantized or compressed models are not implemented; convert the model to f32, f16 or bf16");
  if (family.windows == WindowRule::none && config.has("sliding_window"))
    config.fail("sliding_window", fmt::format("found {}; {} has no sliding window",
                                              show(config.value("sliding_window")), family.name));
}

MlpKind read_activation(const ConfigReader& config, const Family& family) {
  const std::string name = config.text(family.activation_key, std::string(family.default_activation));
  if (family.gated) {
    if (name == "silu" || name == "swish") return MlpKind::gated_silu;
    config.fail(family.activation_key,
                fmt::format("found \"{}\", implemented for {}: silu", name, family.name));
  }
  if (name == "relu") return MlpKind::relu;
  if (name == "gelu") return MlpKind::gelu;
  config.fail(family.activation_key,
              fmt::format("found \"{}\", implemented for {}: relu, gelu", name, family.name));
}

void read_heads(const ConfigReader& config, const Family& family, Architecture& result) {
  result.heads = config.size("num_attention_heads", kLargestWidth);
  const bool own_head_dim = family.rotary && (config.has("head_dim") ||
                                              (family.default_head_dim > 0 && !config.is_null("head_dim")));
  if (own_head_dim) {
    result.head_dim = config.size("head_dim", kLargestWidth, family.default_head_dim);
  } else {
    if (result.hidden_size % result.heads != 0) {
      config.fail("num_attention_heads",
                  fmt::format("found {}, expected a divisor of hidden_size = {}, as there is no head_dim",
                              result.heads, result.hidden_size));
    }
    result.head_dim = result.hidden_size / result.heads;
  }
  if (result.heads * result.head_dim > kLargestWidth)
    config.fail("head_dim", fmt::format("{} heads of {} are wider than {}", result.heads, result.head_dim,
                                        kLargestWidth));
  if (family.rotary && result.head_dim % 2 != 0)
    config.fail("head_dim",
                fmt::format("found {}, expected an even number, as rotary positions need", result.head_dim));
  const bool absent = !config.has("num_key_value_heads") && !config.is_null("num_key_value_heads");
  result.kv_heads = absent && family.default_kv_heads > 0 ? family.default_kv_heads : result.heads;
  if (family.rotary) result.kv_heads = config.size("num_key_value_heads", kLargestWidth, result.kv_heads);
  if (result.heads % result.kv_heads != 0) {
    config.fail("num_key_value_heads", fmt::format("found {}, expected a divisor of num_attention_heads = {}",
                                                   result.kv_heads, result.heads));
  }
}

bool read_bias(const ConfigReader& config, const BiasRule& rule) {
  return rule.key == nullptr ? rule.fallback : config.flag(rule.key, rule.fallback);
}

/// layer_types, or the default of the family, as true = sliding.
std::vector<bool> sliding_blocks(const ConfigReader& config, const Architecture& architecture, bool slides,
                                 std::int64_t first_sliding) {
  std::vector<bool> result;
  if (!config.has("layer_types")) {
    for (std::int64_t block = 0; block < architecture.blocks; ++block)
      result.push_back(slides && block >= first_sliding);
    return result;
  }
  const nlohmann::json& types = config.value("layer_types");
  if (!types.is_array() || static_cast<std::int64_t>(types.size()) != architecture.blocks)
    config.fail("layer_types",
                fmt::format("found {}, expected a list of {} names", show(types), architecture.blocks));
  for (const nlohmann::json& type : types) {
    if (type != "full_attention" && type != "sliding_attention")
      config.fail("layer_types",
                  fmt::format("found {}, implemented are full_attention and sliding_attention", show(type)));
    if (type == "sliding_attention" && !slides)
      config.fail("layer_types",
                  "names sliding_attention, but the model has no sliding window (sliding_window, "
                  "use_sliding_window)");
    result.push_back(type == "sliding_attention");
  }
  return result;
}

void read_windows(const ConfigReader& config, const Family& family, Architecture& result) {
  constexpr std::int64_t kDefaultWindow = 4096;
  std::int64_t width = 0;
  std::int64_t first_sliding = 0;
  const bool in_use = family.windows == WindowRule::every_block ||
                      (family.windows == WindowRule::by_layer && config.flag("use_sliding_window", false));
  if (in_use && !config.is_null("sliding_window"))
    width = config.size("sliding_window", kMostPositions, kDefaultWindow);
  if (family.windows == WindowRule::by_layer) {
    constexpr std::int64_t kDefaultFullBlocks = 28;
    // 0 is allowed here: every block slides.
    const bool all = config.has("max_window_layers") && config.value("max_window_layers") == 0;
    first_sliding = all ? 0 : config.size("max_window_layers", kMostBlocks, kDefaultFullBlocks);
  }
  const std::vector<bool> sliding = sliding_blocks(config, result, width > 0, first_sliding);
  if (family.windows == WindowRule::every_block && width > 0 &&
      std::find(sliding.begin(), sliding.end(), false) != sliding.end())
    config.fail("layer_types", "mixes attention types, which this family's transformers class does not do");
  for (const bool slides : sliding) result.window.push_back(slides ? width : 0);
}

void read_matrices(const ConfigReader& config, const Family& family, Architecture& result) {
  const bool qkv_bias = read_bias(config, family.qkv_bias);
  const bool output_bias = read_bias(config, family.output_bias);
  const bool mlp_bias = read_bias(config, family.mlp_bias);
  const std::int64_t hidden = result.hidden_size;
  const std::int64_t wide = result.intermediate_size;
  const std::int64_t queries = result.heads * result.head_dim;
  const std::int64_t keys = result.kv_heads * result.head_dim;
  result.matrices = {
      {MatrixRole::query, InputGroup::qkv, "self_attn.q_proj", queries, hidden, qkv_bias},
      {MatrixRole::key, InputGroup::qkv, "self_attn.k_proj", keys, hidden, qkv_bias},
      {MatrixRole::value, InputGroup::qkv, "self_attn.v_proj", keys, hidden, qkv_bias},
      {MatrixRole::attention_output, InputGroup::attention_output, std::string(family.output_suffix), hidden,
       queries, output_bias},
  };
  if (family.gated) {
    result.matrices.push_back(
        {MatrixRole::gate, InputGroup::mlp_in, "mlp.gate_proj", wide, hidden, mlp_bias});
    result.matrices.push_back({MatrixRole::up, InputGroup::mlp_in, "mlp.up_proj", wide, hidden, mlp_bias});
    result.matrices.push_back(
        {MatrixRole::down, InputGroup::mlp_out, "mlp.down_proj", hidden, wide, mlp_bias});
  } else {
    result.matrices.push_back({MatrixRole::up, InputGroup::mlp_in, "fc1", wide, hidden, mlp_bias});
    result.matrices.push_back({MatrixRole::down, InputGroup::mlp_out, "fc2", hidden, wide, mlp_bias});
  }
}

void set_names(const Family& family, Architecture& result) {
  const std::string base(family.base);
  result.block_prefix = base + "layers.";
  result.embedding_name = base + "embed_tokens.weight";
  result.head_name = "lm_head.weight";
  result.attention_norm_suffix = family.attention_norm;
  result.mlp_norm_suffix = family.mlp_norm;
  if (result.final_norm) result.final_norm_name = base + std::string(family.final_norm);
  if (result.learned_positions) result.position_name = base + "embed_positions.weight";
  if (result.embedding_size != result.hidden_size) {
    result.project_in_name = base + "project_in.weight";
    result.project_out_name = base + "project_out.weight";
  }
  if (result.head_norms) {
    result.query_norm_suffix = "self_attn.q_norm";
    result.key_norm_suffix = "self_attn.k_norm";
  }
}

void read_norms(const ConfigReader& config, const Family& family, Architecture& result) {
  result.norm = family.norm;
  result.head_norms = family.head_norms;
  if (family.norm == NormKind::rms) {
    result.norm_epsilon = config.positive("rms_norm_eps", 1e-6);
    return;
  }
  result.norm_epsilon = 1e-5;  // torch.nn.LayerNorm's default, which OPT's class takes
  result.norm_affine = config.flag("layer_norm_elementwise_affine", true);
  result.norm_affine_bias = result.norm_affine;
  result.norm_before = config.flag("do_layer_norm_before", true);
  result.final_norm = result.norm_before && !config.flag("_remove_final_layer_norm", false);
}

}  // namespace

Architecture parse_architecture(const std::string& text, const std::string& file_name) {
  const nlohmann::json document = parse_json(text, file_name);
  const ConfigReader config(document, file_name);
  const Family& family = find_family(config);
  refuse_what_is_not_implemented(config, family);
  Architecture result;
  result.family = family.name;
  result.vocab_size = config.size("vocab_size", kLargestVocabulary);
  result.hidden_size = config.size("hidden_size", kLargestWidth);
  result.intermediate_size = config.size(family.intermediate_key, kLargestWidth);
  result.blocks = config.size("num_hidden_layers", kMostBlocks);
  result.max_positions = config.size("max_position_embeddings", kMostPositions, family.default_max_positions);
  result.embedding_size = family.rotary
                              ? result.hidden_size
                              : config.size("word_embed_proj_dim", kLargestWidth, result.hidden_size);
  result.learned_positions = !family.rotary;
  result.tied_head = config.flag("tie_word_embeddings", family.default_tied);
  result.mlp = read_activation(config, family);
  read_heads(config, family, result);
  read_norms(config, family, result);
  if (family.rotary) result.rope = read_rope(config, file_name, result.max_positions);
  read_windows(config, family, result);
  read_matrices(config, family, result);
  set_names(family, result);
  return result;
}

Architecture read_architecture(const std::filesystem::path& config_json) {
  return parse_architecture(read_text_file(config_json), config_json.string());
}

std::string matrix_name(const Architecture& architecture, std::int64_t block, std::size_t matrix) {
  require(0 <= block && block < architecture.blocks && matrix < architecture.matrices.size(),
          "the matrix is one of the model's");
  return fmt::format("{}{}.{}.weight", architecture.block_prefix, block,
                     architecture.matrices[matrix].suffix);
}

}  // namespace fedspallm::model
