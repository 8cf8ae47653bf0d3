// SPDX-License-Identifier: Apache-2.0
#include "rope.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/model/json_text.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string_view>

namespace fedspallm::model {

namespace {

using nlohmann::json;

constexpr std::int64_t kLargestPosition = std::int64_t{1} << 31;
constexpr double kDefaultTheta = 10000.0;

constexpr std::array<std::string_view, 8> kRopeKeys = {"rope_type",
                                                       "type",
                                                       "rope_theta",
                                                       "factor",
                                                       "low_freq_factor",
                                                       "high_freq_factor",
                                                       "original_max_position_embeddings",
                                                       "partial_rotary_factor"};

void refuse_partial_rotation(const ConfigReader& reader) {
  const double factor = reader.positive("partial_rotary_factor", 1.0);
  if (factor != 1.0)
    reader.fail("partial_rotary_factor", fmt::format("found {}, only 1 is implemented", factor));
}

RopeKind read_kind(const ConfigReader& parameters) {
  const std::string old_name = parameters.text("type", "default");
  const std::string name = parameters.text("rope_type", old_name);
  if (parameters.has("type") && parameters.has("rope_type") && name != old_name)
    parameters.fail("rope_type", fmt::format("found \"{}\" beside type = \"{}\"", name, old_name));
  if (name == "default") return RopeKind::standard;
  if (name == "linear") return RopeKind::linear;
  if (name == "llama3") return RopeKind::llama3;
  parameters.fail(parameters.has("rope_type") ? "rope_type" : "type",
                  fmt::format("found \"{}\", implemented are default, linear and llama3", name));
}

/// The object that holds the parameters, and the key it stands under ("" when there is none).
struct Source {
  json object = json::object();
  std::string key;
};

Source find_parameters(const ConfigReader& config) {
  const bool old_spelling = config.has("rope_scaling");
  const bool new_spelling = config.has("rope_parameters");
  if (old_spelling && new_spelling && config.value("rope_scaling") != config.value("rope_parameters"))
    config.fail("rope_scaling", "contradicts 'rope_parameters'");
  if (new_spelling) return {config.value("rope_parameters"), "rope_parameters."};
  if (old_spelling) return {config.value("rope_scaling"), "rope_scaling."};
  return {};
}

}  // namespace

Rope read_rope(const ConfigReader& config, const std::string& file, std::int64_t max_positions) {
  const Source source = find_parameters(config);
  const ConfigReader parameters(source.object, file, source.key);
  for (const auto& [key, value] : source.object.items()) {
    if (value.is_object()) parameters.fail(key, "rotary parameters per layer type are not implemented");
    if (std::find(kRopeKeys.begin(), kRopeKeys.end(), key) == kRopeKeys.end())
      parameters.fail(key, fmt::format("is not implemented (found {}); known are {}", show(value),
                                       fmt::join(kRopeKeys, ", ")));
  }
  refuse_partial_rotation(config);
  refuse_partial_rotation(parameters);
  Rope rope;
  rope.kind = read_kind(parameters);
  rope.theta = parameters.positive("rope_theta", config.positive("rope_theta", kDefaultTheta));
  if (rope.kind == RopeKind::standard) return rope;
  rope.factor = parameters.positive("factor");
  if (rope.kind == RopeKind::linear) return rope;
  rope.low_frequency_factor = parameters.positive("low_freq_factor");
  rope.high_frequency_factor = parameters.positive("high_freq_factor");
  if (rope.high_frequency_factor <= rope.low_frequency_factor) {
    parameters.fail("high_freq_factor", fmt::format("found {}, expected more than low_freq_factor = {}",
                                                    rope.high_frequency_factor, rope.low_frequency_factor));
  }
  // transformers gives the key outside rope_parameters priority over the one inside.
  rope.original_max_positions =
      config.size("original_max_position_embeddings", kLargestPosition,
                  parameters.size("original_max_position_embeddings", kLargestPosition, max_positions));
  return rope;
}

namespace {

// All arithmetic is in float, operation by operation as transformers does it; powf differs between libraries
// in the last bit, so the power is computed in double and rounded once.
std::vector<float> inverse_frequencies(const Rope& rope, std::int64_t head_dim) {
  std::vector<float> result;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(head_dim);
    const auto power = static_cast<float>(
        std::pow(static_cast<double>(static_cast<float>(rope.theta)), static_cast<double>(exponent)));
    result.push_back(1.0F / power);
  }
  return result;
}

float llama3_frequency(const Rope& rope, float frequency) {
  const auto original = static_cast<double>(rope.original_max_positions);
  const auto longest = static_cast<float>(original / rope.low_frequency_factor);
  const auto shortest = static_cast<float>(original / rope.high_frequency_factor);
  const auto factor = static_cast<float>(rope.factor);
  const float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
  if (wavelength > longest) return frequency / factor;
  if (wavelength < shortest) return frequency;
  const float smooth =
      (static_cast<float>(original) / wavelength - static_cast<float>(rope.low_frequency_factor)) /
      static_cast<float>(rope.high_frequency_factor - rope.low_frequency_factor);
  return (1.0F - smooth) * frequency / factor + smooth * frequency;
}

}  // namespace

RopeTables rope_tables(const Architecture& architecture, std::int64_t positions) {
  require(positions >= 0, "positions >= 0");
  RopeTables tables;
  const Rope& rope = architecture.rope;
  if (rope.kind == RopeKind::none) return tables;
  std::vector<float> frequencies = inverse_frequencies(rope, architecture.head_dim);
  for (float& frequency : frequencies) {
    if (rope.kind == RopeKind::linear) frequency /= static_cast<float>(rope.factor);
    if (rope.kind == RopeKind::llama3) frequency = llama3_frequency(rope, frequency);
  }
  for (std::int64_t position = 0; position < positions; ++position) {
    for (const float frequency : frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      tables.cosine.push_back(static_cast<float>(std::cos(static_cast<double>(angle))));
      tables.sine.push_back(static_cast<float>(std::sin(static_cast<double>(angle))));
    }
  }
  return tables;
}

}  // namespace fedspallm::model
