// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/model/architecture.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "support/expect_error.hpp"
#include "support/safetensors_builder.hpp"
#include "support/support.hpp"
#include <set>

namespace fedspallm::model {
namespace {

using nlohmann::json;
using test::expect_error;

json base_config(const std::string& family) {
  json config = {{"model_type", family},   {"vocab_size", 100},        {"hidden_size", 32},
                 {"num_hidden_layers", 3}, {"num_attention_heads", 4}, {"max_position_embeddings", 64}};
  config[family == "opt" ? "ffn_dim" : "intermediate_size"] = 48;
  if (family.starts_with("qwen") || family == "mistral") config["num_key_value_heads"] = 2;
  return config;
}

/// `patch` as in RFC 7386, but null stays a value: "erase" removes a key.
json patched(const std::string& family, const json& patch) {
  json config = base_config(family);
  for (const auto& [key, value] : patch.items()) {
    if (value == "erase") {
      config.erase(key);
    } else {
      config[key] = value;
    }
  }
  return config;
}

Architecture parse(const std::string& family, const json& patch = json::object()) {
  return parse_architecture(patched(family, patch).dump(), "config.json");
}

TEST(Architecture, LlamaTakesTheDefaultsOfTransformers) {
  const Architecture a = parse("llama");
  EXPECT_EQ(a.family, "llama");
  EXPECT_EQ(a.kv_heads, 4);
  EXPECT_EQ(a.head_dim, 8);
  EXPECT_EQ(a.embedding_size, 32);
  EXPECT_EQ(a.norm, NormKind::rms);
  EXPECT_DOUBLE_EQ(a.norm_epsilon, 1e-6);
  EXPECT_TRUE(a.norm_before && a.final_norm && a.norm_affine);
  EXPECT_FALSE(a.norm_affine_bias || a.tied_head || a.head_norms || a.learned_positions);
  EXPECT_EQ(a.mlp, MlpKind::gated_silu);
  EXPECT_EQ(a.rope.kind, RopeKind::standard);
  EXPECT_DOUBLE_EQ(a.rope.theta, 10000.0);
  EXPECT_EQ(a.window, (std::vector<std::int64_t>{0, 0, 0}));
  EXPECT_EQ(a.block_prefix, "model.layers.");
  EXPECT_EQ(a.embedding_name, "model.embed_tokens.weight");
  EXPECT_EQ(a.head_name, "lm_head.weight");
  EXPECT_EQ(a.final_norm_name, "model.norm");
  EXPECT_TRUE(a.position_name.empty() && a.project_in_name.empty() && a.project_out_name.empty());
}

TEST(Architecture, MatricesComeInOrderWithTheirInputsAndShapes) {
  const Architecture a = parse("llama", {{"num_key_value_heads", 2}, {"head_dim", 6}});
  const std::vector<std::tuple<std::string, InputGroup, std::int64_t, std::int64_t>> expected = {
      {"self_attn.q_proj", InputGroup::qkv, 24, 32},
      {"self_attn.k_proj", InputGroup::qkv, 12, 32},
      {"self_attn.v_proj", InputGroup::qkv, 12, 32},
      {"self_attn.o_proj", InputGroup::attention_output, 32, 24},
      {"mlp.gate_proj", InputGroup::mlp_in, 48, 32},
      {"mlp.up_proj", InputGroup::mlp_in, 48, 32},
      {"mlp.down_proj", InputGroup::mlp_out, 32, 48},
  };
  ASSERT_EQ(a.matrices.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const MatrixShape& m = a.matrices[i];
    EXPECT_EQ(std::tuple(m.suffix, m.group, m.rows, m.cols), expected[i]);
    EXPECT_FALSE(m.bias) << m.suffix;
  }
}

TEST(Architecture, OptDiffersInNamesNormsPositionsAndProjection) {
  const Architecture a = parse("opt", {{"word_embed_proj_dim", 16}});
  EXPECT_EQ(a.embedding_size, 16);
  EXPECT_EQ(a.norm, NormKind::layer);
  EXPECT_DOUBLE_EQ(a.norm_epsilon, 1e-5);
  EXPECT_TRUE(a.norm_affine && a.norm_affine_bias && a.norm_before && a.final_norm && a.tied_head &&
              a.learned_positions);
  EXPECT_EQ(a.mlp, MlpKind::relu);
  EXPECT_EQ(a.rope.kind, RopeKind::none);
  EXPECT_EQ(a.project_in_name, "model.decoder.project_in.weight");
  EXPECT_EQ(a.project_out_name, "model.decoder.project_out.weight");
  EXPECT_EQ(a.position_name, "model.decoder.embed_positions.weight");
  EXPECT_EQ(a.final_norm_name, "model.decoder.final_layer_norm");
  ASSERT_EQ(a.matrices.size(), 6U);
  EXPECT_EQ(a.matrices[3].suffix, "self_attn.out_proj");
  EXPECT_EQ(a.matrices[4].suffix, "fc1");
  EXPECT_EQ(a.matrices[5].suffix, "fc2");
  for (const MatrixShape& m : a.matrices) EXPECT_TRUE(m.bias) << m.suffix;
}

TEST(Architecture, OptSwitchesAreHonoured) {
  const Architecture post = parse("opt", {{"do_layer_norm_before", false}});
  EXPECT_FALSE(post.norm_before || post.final_norm);
  EXPECT_TRUE(post.final_norm_name.empty());
  const Architecture old = parse("opt", {{"_remove_final_layer_norm", true}});
  EXPECT_TRUE(old.norm_before);
  EXPECT_FALSE(old.final_norm);
  const Architecture plain = parse("opt", {{"layer_norm_elementwise_affine", false}, {"enable_bias", false}});
  EXPECT_FALSE(plain.norm_affine || plain.norm_affine_bias);
  for (const MatrixShape& m : plain.matrices) EXPECT_FALSE(m.bias) << m.suffix;
  EXPECT_EQ(parse("opt", {{"activation_function", "gelu"}}).mlp, MlpKind::gelu);
}

std::set<std::string> biased(const Architecture& a) {
  std::set<std::string> names;
  for (const MatrixShape& m : a.matrices)
    if (m.bias) names.insert(m.suffix);
  return names;
}

TEST(Architecture, EachFamilyHasItsOwnBiases) {
  const std::set<std::string> qkv = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
  std::set<std::string> attention = qkv;
  attention.insert("self_attn.o_proj");
  EXPECT_EQ(biased(parse("llama", {{"attention_bias", true}})), attention);
  EXPECT_EQ(biased(parse("llama", {{"mlp_bias", true}})),
            (std::set<std::string>{"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}));
  EXPECT_EQ(biased(parse("mistral")), std::set<std::string>{});
  EXPECT_EQ(biased(parse("qwen2")), qkv);
  EXPECT_EQ(biased(parse("qwen3")), std::set<std::string>{});
  EXPECT_EQ(biased(parse("qwen3", {{"attention_bias", true}})), attention);
}

TEST(Architecture, AbsentHeadKeysFallBackAsInEachFamilysConfigurationClass) {
  EXPECT_EQ(parse("qwen3", {{"head_dim", "erase"}}).head_dim, 128);
  EXPECT_EQ(parse("qwen2", {{"head_dim", "erase"}}).head_dim, 8);
  EXPECT_EQ(parse("llama", {{"head_dim", nullptr}}).head_dim, 8);
  EXPECT_EQ(parse("mistral", {{"num_key_value_heads", nullptr}}).kv_heads, 4);
  const json many = {{"num_key_value_heads", "erase"}, {"num_attention_heads", 16}};
  EXPECT_EQ(parse("mistral", many).kv_heads, 8);
  EXPECT_EQ(parse("llama", many).kv_heads, 16);
  EXPECT_TRUE(parse("qwen3").head_norms);
  EXPECT_EQ(parse("qwen3").query_norm_suffix, "self_attn.q_norm");
}

TEST(Architecture, SlidingWindowsFollowTheFamilysRule) {
  using Windows = std::vector<std::int64_t>;
  EXPECT_EQ(parse("mistral", {{"sliding_window", 16}}).window, (Windows{16, 16, 16}));
  EXPECT_EQ(parse("mistral", {{"sliding_window", nullptr}}).window, (Windows{0, 0, 0}));
  EXPECT_EQ(parse("mistral").window, (Windows{4096, 4096, 4096}));  // the class's default
  EXPECT_EQ(parse("qwen2", {{"sliding_window", 16}}).window, (Windows{0, 0, 0}));
  EXPECT_EQ(
      parse("qwen2", {{"sliding_window", 16}, {"use_sliding_window", true}, {"max_window_layers", 1}}).window,
      (Windows{0, 16, 16}));
  EXPECT_EQ(
      parse("qwen2", {{"sliding_window", 16}, {"use_sliding_window", true}, {"max_window_layers", 0}}).window,
      (Windows{16, 16, 16}));
  EXPECT_EQ(
      parse("qwen2", {{"sliding_window", nullptr}, {"use_sliding_window", true}, {"max_window_layers", 0}})
          .window,
      (Windows{0, 0, 0}));
  const json types = {"sliding_attention", "full_attention", "sliding_attention"};
  EXPECT_EQ(
      parse("qwen3", {{"sliding_window", 8}, {"use_sliding_window", true}, {"layer_types", types}}).window,
      (Windows{8, 0, 8}));
}

TEST(Architecture, BothSpellingsOfRopeGiveTheSame) {
  const json inner = {{"factor", 8.0},
                      {"low_freq_factor", 1.0},
                      {"high_freq_factor", 4.0},
                      {"original_max_position_embeddings", 32}};
  json five = inner;
  five["rope_type"] = "llama3";
  five["rope_theta"] = 5e5;
  json four = inner;
  four["type"] = "llama3";
  const Rope a = parse("llama", {{"rope_parameters", five}}).rope;
  const Rope b = parse("llama", {{"rope_scaling", four}, {"rope_theta", 500000}}).rope;
  for (const Rope& rope : {a, b}) {
    EXPECT_EQ(rope.kind, RopeKind::llama3);
    EXPECT_DOUBLE_EQ(rope.theta, 5e5);
    EXPECT_DOUBLE_EQ(rope.factor, 8.0);
    EXPECT_DOUBLE_EQ(rope.low_frequency_factor, 1.0);
    EXPECT_DOUBLE_EQ(rope.high_frequency_factor, 4.0);
    EXPECT_EQ(rope.original_max_positions, 32);
  }
  EXPECT_EQ(parse("llama", {{"rope_scaling", {{"type", "linear"}, {"rope_type", "linear"}, {"factor", 2}}}})
                .rope.kind,
            RopeKind::linear);
  EXPECT_EQ(parse("llama", {{"rope_scaling", nullptr}, {"rope_theta", 2e4}}).rope.theta, 2e4);
  EXPECT_EQ(parse("qwen2", {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}}}).rope.theta,
            1e6);
}

TEST(Architecture, LlamaThreeFallsBackToTheModelsOwnPositions) {
  json parameters = {
      {"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}};
  EXPECT_EQ(parse("llama", {{"rope_parameters", parameters}}).rope.original_max_positions, 64);
  parameters["original_max_position_embeddings"] = 32;
  EXPECT_EQ(parse("llama", {{"rope_parameters", parameters}, {"original_max_position_embeddings", 16}})
                .rope.original_max_positions,
            16);
}

struct Refused {
  const char* family;
  json patch;
  std::vector<std::string> fragments;
};

void PrintTo(const Refused& value, std::ostream* stream) {
  *stream << value.family << " " << value.patch.begin().key();
}

class RefusedConfig : public testing::TestWithParam<Refused> {};

TEST_P(RefusedConfig, NamesFileKeyAndExpectation) {
  auto fragments = GetParam().fragments;
  fragments.emplace_back("config.json");
  SCOPED_TRACE(GetParam().patch.dump());
  expect_error<ModelError>([] { static_cast<void>(parse(GetParam().family, GetParam().patch)); }, fragments);
}

json rope(const json& parameters) {
  return {{"rope_parameters", parameters}};
}

INSTANTIATE_TEST_SUITE_P(
    Architecture, RefusedConfig,
    testing::Values(
        Refused{"llama", {{"model_type", "erase"}}, {"'model_type'", "missing"}},
        Refused{"llama", {{"model_type", 3}}, {"'model_type'", "found 3"}},
        Refused{"llama",
                {{"model_type", "mixtral"}},
                {"\"mixtral\"", "llama, mistral, opt, qwen2, qwen3", "nearest: mistral"}},
        Refused{"llama", {{"model_type", "gpt_neox"}}, {"\"gpt_neox\"", "known families"}},
        Refused{"llama",
                {{"quantization_config", {{"quant_method", "gptq"}}}},
                {"'quantization_config'", "not implemented"}},
        Refused{"llama", {{"vocab_size", "erase"}}, {"'vocab_size'", "missing", "an integer"}},
        Refused{"llama", {{"hidden_size", 0}}, {"'hidden_size'", "found 0", "from 1"}},
        Refused{"llama", {{"hidden_size", -32}}, {"found -32"}},
        Refused{"llama", {{"hidden_size", 32.5}}, {"found 32.5"}},
        Refused{"llama", {{"hidden_size", "big"}}, {"found \"big\""}},
        Refused{"llama", {{"hidden_size", 1LL << 40}}, {"'hidden_size'", "to 1048576"}},
        Refused{"llama", {{"vocab_size", 1LL << 62}}, {"'vocab_size'"}},
        Refused{"llama", {{"num_hidden_layers", 0}}, {"'num_hidden_layers'"}},
        Refused{"llama", {{"num_hidden_layers", 100000}}, {"'num_hidden_layers'", "100000"}},
        Refused{
            "llama", {{"num_attention_heads", 5}}, {"'num_attention_heads'", "divisor of hidden_size = 32"}},
        Refused{"llama",
                {{"num_attention_heads", 1 << 15}, {"head_dim", 1 << 10}, {"num_key_value_heads", 1}},
                {"'head_dim'", "wider"}},
        Refused{"llama", {{"head_dim", 7}}, {"'head_dim'", "found 7", "even"}},
        Refused{"llama",
                {{"num_key_value_heads", 3}},
                {"'num_key_value_heads'", "found 3", "divisor of num_attention_heads = 4"}},
        Refused{"qwen2", {{"num_key_value_heads", "erase"}}, {"'num_key_value_heads'", "found 32"}},
        Refused{"llama", {{"rms_norm_eps", 0}}, {"'rms_norm_eps'", "above 0"}},
        Refused{"llama", {{"rms_norm_eps", "small"}}, {"'rms_norm_eps'"}},
        Refused{"llama", {{"hidden_act", "gelu"}}, {"'hidden_act'", "\"gelu\"", "silu"}},
        Refused{"opt", {{"activation_function", "gelu_new"}}, {"'activation_function'", "relu, gelu"}},
        Refused{"llama", {{"attention_bias", "yes"}}, {"'attention_bias'", "true or false"}},
        Refused{"llama", {{"tie_word_embeddings", 1}}, {"'tie_word_embeddings'"}},
        Refused{"llama", {{"partial_rotary_factor", 0.5}}, {"'partial_rotary_factor'", "0.5", "only 1"}},
        Refused{"llama",
                rope({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}),
                {"'rope_parameters.partial_rotary_factor'"}},
        Refused{"llama",
                rope({{"rope_type", "yarn"}, {"factor", 4}}),
                {"'rope_parameters.rope_type'", "\"yarn\"", "linear and llama3"}},
        Refused{"llama",
                {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}},
                {"'rope_scaling.type'", "\"dynamic\""}},
        Refused{"llama", {{"rope_scaling", {{"rope_type", "longrope"}}}}, {"\"longrope\""}},
        Refused{"llama",
                {{"rope_scaling", {{"type", "linear"}, {"rope_type", "llama3"}, {"factor", 2}}}},
                {"'rope_scaling.rope_type'", "beside"}},
        Refused{"llama", {{"rope_scaling", 3}}, {"rope_scaling", "expected an object"}},
        Refused{"llama", rope({{"rope_type", "linear"}}), {"'rope_parameters.factor'", "missing"}},
        Refused{
            "llama", rope({{"rope_type", "linear"}, {"factor", 0}}), {"'rope_parameters.factor'", "above 0"}},
        Refused{"llama",
                rope({{"rope_type", "llama3"}, {"factor", 8}}),
                {"'rope_parameters.low_freq_factor'", "missing"}},
        Refused{
            "llama",
            rope({{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}),
            {"'rope_parameters.high_freq_factor'", "more than low_freq_factor = 4"}},
        Refused{"llama",
                rope({{"rope_type", "default"}, {"mrope_section", {1, 2}}}),
                {"'rope_parameters.mrope_section'", "not implemented"}},
        Refused{"llama", rope({{"full_attention", {{"rope_type", "default"}}}}), {"per layer type"}},
        Refused{"llama", {{"rope_theta", -1}}, {"'rope_theta'"}},
        Refused{"llama",
                {{"rope_scaling", {{"type", "linear"}, {"factor", 2}}},
                 {"rope_parameters", {{"rope_type", "default"}}}},
                {"'rope_scaling'", "contradicts"}},
        Refused{"llama", {{"sliding_window", 16}}, {"'sliding_window'", "llama has no sliding window"}},
        Refused{"mistral", {{"sliding_window", 0}}, {"'sliding_window'", "found 0"}},
        Refused{"mistral",
                {{"sliding_window", 8},
                 {"layer_types", {"full_attention", "sliding_attention", "sliding_attention"}}},
                {"'layer_types'", "mixes"}},
        Refused{"qwen2",
                {{"layer_types", {"sliding_attention", "full_attention", "full_attention"}},
                 {"sliding_window", 8}},
                {"'layer_types'", "no sliding window"}},
        Refused{"qwen2", {{"layer_types", {"full_attention"}}}, {"'layer_types'", "a list of 3"}},
        Refused{"qwen3",
                {{"layer_types", {"chunked_attention", "full_attention", "full_attention"}}},
                {"chunked_attention"}},
        Refused{"llama",
                {{"layer_types", {"full_attention", "full_attention", "linear_attention"}}},
                {"linear_attention"}},
        Refused{"opt", {{"ffn_dim", "erase"}}, {"'ffn_dim'", "missing"}},
        Refused{"opt", {{"word_embed_proj_dim", 0}}, {"'word_embed_proj_dim'"}}));

TEST(Architecture, RefusesTextThatIsNoObjectOrNamesAKeyTwice) {
  const auto parse_text = [](const std::string& text) {
    static_cast<void>(parse_architecture(text, "config.json"));
  };
  expect_error<ModelError>([&] { parse_text("[1]"); }, {"config.json", "found [1]", "expected an object"});
  expect_error<ModelError>([&] { parse_text(""); }, {"config.json", "not valid JSON"});
  expect_error<ModelError>([&] { parse_text("{\"a\":1,"); }, {"not valid JSON", "line 1"});
  expect_error<ModelError>([&] { parse_text(R"({"hidden_size":1,"hidden_size":2})"); },
                           {"'hidden_size' occurs twice"});
  expect_error<ModelError>([&] { parse_text(std::string(200'000, '[')); }, {"not valid JSON"});
  // Well formed: showing such a value in a message would take the whole stack.
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  expect_error<ModelError>([&] { parse_text("{\"model_type\":" + deep + "}"); }, {"config.json", "100 deep"});
}

TEST(Architecture, ReadsFromAFileAndNamesAMissingOne) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "config.json";
  expect_error<ModelError>([&] { static_cast<void>(read_architecture(path)); },
                           {path.string(), "no such file"});
  test::write_file(path, base_config("qwen2").dump());
  EXPECT_EQ(read_architecture(path).family, "qwen2");
}

}  // namespace
}  // namespace fedspallm::model
