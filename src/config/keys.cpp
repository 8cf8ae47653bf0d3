// SPDX-License-Identifier: Apache-2.0
#include "keys.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/ranges.h>

#include "choices.hpp"
#include "document.hpp"
#include <charconv>
#include <limits>

namespace fedspallm::config {

namespace {

constexpr std::int64_t kInt64Max = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kIntMax = std::numeric_limits<int>::max();
constexpr std::int64_t kLongestWindow = std::int64_t{1}
                                        << 24;  // tokens; samples * tokens stays far below 2^63
constexpr std::int64_t kMostVirtualClients = 1'000'000;
constexpr int kLargestGroup = 128;  // M of N:M

/// The value inside of T and optional<T> alike.
template <class Field>
struct Plain {
  using type = Field;
};
template <class Field>
struct Plain<std::optional<Field>> {
  using type = Field;
};

template <class Field>
std::string number_of(const Field& field) {
  return fmt::format("{}", field);
}
template <class Field>
std::string number_of(const std::optional<Field>& field) {
  return field ? fmt::format("{}", *field) : "";
}

template <class T, class Field>
Key<T> integer(const char* name, Field T::*field, std::int64_t low, std::int64_t high) {
  return {name,
          [=](const Value& value, T& out) {
            std::int64_t number = 0;
            Mismatch found = read_integer(value, low, high, number);
            if (found.empty()) out.*field = static_cast<typename Plain<Field>::type>(number);
            return found;
          },
          [=](const T& in) { return number_of(in.*field); },
          {}};
}

template <class T>
Key<T> integers(const char* name, std::vector<std::int64_t> T::*field, std::int64_t low, std::int64_t high) {
  return {
      name,
      [=](const Value& value, T& out) { return read_integers(value, low, high, out.*field); },
      [=](const T& in) { return (in.*field).empty() ? "" : fmt::format("[{}]", fmt::join(in.*field, ", ")); },
      {}};
}

template <class T>
Key<T> real(const char* name, double T::*field, RealRange range) {
  return {name,
          [=](const Value& value, T& out) { return read_real(value, range, out.*field); },
          [=](const T& in) { return float_text(in.*field); },
          {}};
}

template <class T>
Key<T> boolean(const char* name, bool T::*field) {
  return {name,
          [=](const Value& value, T& out) { return read_boolean(value, out.*field); },
          [=](const T& in) { return std::string(in.*field ? "true" : "false"); },
          {}};
}

template <class T, class Enum>
Key<T> choice(const char* name, Enum T::*field) {
  return {name,
          [=](const Value& value, T& out) {
            const auto all = spellings(Enum{});
            std::size_t index = 0;
            Mismatch found = read_choice(value, {all.begin(), all.end()}, index);
            if (found.empty()) out.*field = static_cast<Enum>(index);
            return found;
          },
          [=](const T& in) { return toml_string(name_of(in.*field)); },
          {}};
}

template <class T>
Key<T> path(const char* name, std::filesystem::path T::*field, const char* missing) {
  return {name, [=](const Value& value, T& out) { return read_path(value, out.*field); },
          [=](const T& in) {
            return (in.*field).empty() ? "" : toml_string((in.*field).string());  // `simulate` needs no path
          },
          missing};
}

template <class T>
Key<T> label(const char* name, std::string T::*field, const char* missing) {
  return {name, [=](const Value& value, T& out) { return read_name(value, out.*field); },
          [=](const T& in) { return toml_string(in.*field); }, missing};
}

/// Digits only, as "2:4" has them.
bool parse_count(std::string_view text, int& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && text.front() != '-';
}

Mismatch read_pattern(const Value& value, Pattern& out) {
  const std::string expected = fmt::format(
      "\"unstructured\" or \"N:M\", which keeps N of every M weights, 1 <= N < M <= {}", kLargestGroup);
  std::string text;
  if (Mismatch found = read_string(value, expected, text); !found.empty()) return found;
  if (text == "unstructured") {
    out = {};
    return {};
  }
  const auto colon = text.find(':');
  Pattern pattern;
  const bool valid = colon != std::string::npos &&
                     parse_count(std::string_view(text).substr(0, colon), pattern.keep) &&
                     parse_count(std::string_view(text).substr(colon + 1), pattern.group) &&
                     pattern.keep >= 1 && pattern.keep < pattern.group && pattern.group <= kLargestGroup;
  if (!valid) return fmt::format("found {}, expected {}", describe(toml::value<std::string>(text)), expected);
  out = pattern;
  return {};
}

Key<Prune> pattern_key() {
  return {"pattern",
          [](const Value& value, Prune& out) { return read_pattern(value, out.pattern); },
          [](const Prune& in) { return toml_string(name_of(in.pattern)); },
          {}};
}

Key<Client> tokens_key() {
  return {"tokens", [](const Value& value, Client& out) { return read_paths(value, out.tokens); },
          [](const Client& in) {
            std::vector<std::string> paths;
            for (const auto& file : in.tokens) paths.push_back(toml_string(file.string()));
            return paths.size() == 1 ? paths.front() : fmt::format("[{}]", fmt::join(paths, ", "));
          },
          "the client's token file"};
}

template <class Enum>
std::string_view spelling_of(Enum value) {
  const auto all = spellings(value);
  const auto index = static_cast<std::size_t>(value);
  require(index < all.size(), "an enumerator of the configuration");
  return all[index];
}

template <class T>
void append_names(std::vector<std::string>& names, const std::string& section,
                  const std::vector<Key<T>>& keys) {
  for (const Key<T>& key : keys) names.push_back(section + "." + key.name);
}

}  // namespace

std::vector<Key<Model>> model_keys() {
  return {path("path", &Model::path, "the folder of the model to prune"), choice("dtype", &Model::dtype)};
}

std::vector<Key<Run>> run_keys() {
  return {path("dir", &Run::dir, "the folder for the results"),
          integer("seed", &Run::seed, 0, kInt64Max),
          choice("backend", &Run::backend),
          choice("products", &Run::products),
          integer("threads", &Run::threads, 0, 4096),
          boolean("keep_clients", &Run::keep_clients),
          integer("checkpoint_every", &Run::checkpoint_every, 0, kIntMax),
          real("grace_seconds", &Run::grace_seconds, {.low = 0, .high = 86400})};
}

std::vector<Key<Prune>> prune_keys() {
  return {choice("method", &Prune::method),
          real("sparsity", &Prune::sparsity, {.low = 0, .high = 1}),
          pattern_key(),
          integer("block_size", &Prune::block_size, 1, 65536),
          real("damping", &Prune::damping, {.low = 0, .high = 10, .open_low = true}),
          choice("order", &Prune::order),
          choice("count", &Prune::count)};
}

std::vector<Key<Calibration>> calibration_keys() {
  return {integer("samples", &Calibration::samples, 1, kIntMax),
          integer("sequence_length", &Calibration::sequence_length, 1, kLongestWindow),
          choice("sampling", &Calibration::sampling)};
}

std::vector<Key<Federation>> federation_keys() {
  return {integer("rounds", &Federation::rounds, 1, 1000),
          choice("aggregation", &Federation::aggregation),
          boolean("mask_expansion", &Federation::mask_expansion),
          choice("tie", &Federation::tie),
          choice("transport", &Federation::transport),
          choice("topology", &Federation::topology),
          choice("layer_sampling", &Federation::layer_sampling),
          choice("coverage", &Federation::coverage),
          integer("chunk_bytes", &Federation::chunk_bytes, std::int64_t{1} << 16, std::int64_t{1} << 30),
          choice("on_client_failure", &Federation::on_client_failure),
          real("deadline", &Federation::deadline, {.low = 0, .high = 1e9})};
}

std::vector<Key<Report>> report_keys() {
  return {boolean("standalone", &Report::standalone)};
}

std::vector<Key<Client>> client_keys() {
  return {label("name", &Client::name, "the client's name"), tokens_key(),
          real("resources", &Client::resources, {.low = 0, .high = 1, .open_low = true}),
          integer("samples", &Client::samples, 1, kIntMax), integer("rank", &Client::rank, 0, kIntMax)};
}

std::vector<Key<Evaluation>> evaluation_keys() {
  return {label("name", &Evaluation::name, "the evaluation's name"),
          path("tokens", &Evaluation::tokens, "the token file to evaluate on"),
          integer("samples", &Evaluation::samples, 1, kIntMax),
          integer("sequence_length", &Evaluation::sequence_length, 2, kLongestWindow)};  // L - 1 predictions
}

std::vector<Key<Simulate>> simulate_keys() {
  constexpr RealRange share{.low = 0, .high = 1};
  constexpr RealRange sigma{.low = 0, .high = 5};
  return {integer("clients", &Simulate::clients, 1, kMostVirtualClients),
          choice("shape", &Simulate::shape),
          integer("blocks", &Simulate::blocks, 1, 100'000),
          choice("placement", &Simulate::placement),
          boolean("checkpoint", &Simulate::checkpoint),
          integers("fit", &Simulate::fit, 1, kMostVirtualClients),
          integers("held_out", &Simulate::held_out, 1, kMostVirtualClients),
          integer("repeats", &Simulate::repeats, 1, 1000),
          real("flops", &Simulate::flops, {.low = 1e6, .high = 1e18}),
          real("spread", &Simulate::spread, sigma),
          real("jitter", &Simulate::jitter, sigma),
          real("stragglers", &Simulate::stragglers, share),
          real("straggler_factor", &Simulate::straggler_factor, {.low = 1, .high = 1e6}),
          real("dropouts", &Simulate::dropouts, share),
          real("least_resources", &Simulate::least_resources, {.low = 0, .high = 1, .open_low = true}),
          real("link_bytes", &Simulate::link_bytes, {.low = 1e3, .high = 1e15}),
          real("latency", &Simulate::latency, {.low = 0, .high = 10}),
          integer("gpus_per_node", &Simulate::gpus_per_node, 1, 10'000)};
}

std::vector<std::string> known_keys() {
  std::vector<std::string> names;
  append_names(names, "model", model_keys());
  append_names(names, "run", run_keys());
  append_names(names, "prune", prune_keys());
  append_names(names, "calibration", calibration_keys());
  append_names(names, "federation", federation_keys());
  append_names(names, "report", report_keys());
  append_names(names, "simulate", simulate_keys());
  append_names(names, "client.NAME", client_keys());
  append_names(names, "evaluation.NAME", evaluation_keys());
  return names;
}

std::string_view name_of(BackendKind value) {
  return spelling_of(value);
}
std::string_view name_of(Method value) {
  return spelling_of(value);
}
std::string_view name_of(Order value) {
  return spelling_of(value);
}
std::string_view name_of(Count value) {
  return spelling_of(value);
}
std::string_view name_of(Sampling value) {
  return spelling_of(value);
}
std::string_view name_of(Aggregation value) {
  return spelling_of(value);
}
std::string_view name_of(Tie value) {
  return spelling_of(value);
}
std::string_view name_of(TransportKind value) {
  return spelling_of(value);
}
std::string_view name_of(TopologyKind value) {
  return spelling_of(value);
}
std::string_view name_of(LayerSampling value) {
  return spelling_of(value);
}
std::string_view name_of(Coverage value) {
  return spelling_of(value);
}
std::string_view name_of(OnClientFailure value) {
  return spelling_of(value);
}
std::string_view name_of(ModelDType value) {
  return spelling_of(value);
}
std::string_view name_of(Products value) {
  return spelling_of(value);
}

std::string_view name_of(ModelShape value) {
  return spelling_of(value);
}
std::string_view name_of(Placement value) {
  return spelling_of(value);
}

std::string name_of(const Pattern& pattern) {
  return pattern.structured() ? fmt::format("{}:{}", pattern.keep, pattern.group) : "unstructured";
}

}  // namespace fedspallm::config
