// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/config/config.hpp"

#include "fedspallm/base/error.hpp"

#include "checks.hpp"
#include "document.hpp"
#include "keys.hpp"
#include "suggest.hpp"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

namespace fedspallm::config {

namespace {

constexpr std::uintmax_t kLargestFile = std::uintmax_t{16} << 20;  // bytes; a larger one is no configuration

/// @param complete  keys that must be given are missed
template <class T>
void read_section(Section& section, const std::vector<Key<T>>& keys, const std::filesystem::path& folder,
                  T& out, Problems& problems, bool complete = true) {
  for (auto& [name, assignment] : section.values) {
    const auto key = std::find_if(keys.begin(), keys.end(), [&](const Key<T>& k) { return k.name == name; });
    if (key == keys.end()) {
      problems.add(assignment.origin, unknown_key(section.name, section.title, name));
      continue;
    }
    const Mismatch found = key->read({*assignment.node, assignment.word, folder}, out);
    assignment.refused = !found.empty();
    if (assignment.refused)
      problems.add(assignment.origin, fmt::format("{}.{}: {}", section.title, name, found));
  }
  for (const Key<T>& key : keys)
    if (complete && !key.missing.empty() && section.find(key.name) == nullptr)
      problems.add(section.origin,
                   fmt::format("missing key '{}.{}' ({})", section.title, key.name, key.missing));
}

template <class T>
void read_list(std::vector<Section>& sections, const std::vector<Key<T>>& keys,
               const std::filesystem::path& folder, std::vector<T>& out, Problems& problems) {
  for (Section& section : sections) read_section(section, keys, folder, out.emplace_back(), problems);
}

template <class T>
void print_section(std::string& text, const std::string& header, const std::vector<Key<T>>& keys,
                   const T& in) {
  text += (text.empty() ? "" : "\n") + header + "\n";
  for (const Key<T>& key : keys)
    if (const std::string value = key.print(in); !value.empty())
      text += fmt::format("{} = {}\n", key.name, value);
}

}  // namespace

Config load(const std::filesystem::path& file, const std::vector<std::string>& settings) {
  std::error_code error;
  const auto size = std::filesystem::file_size(file, error);
  check<ConfigError>(!error, fmt::format("{}: cannot be read: {}", file.string(), error.message()));
  check<ConfigError>(size <= kLargestFile,
                     fmt::format("{}: found {} bytes, expected a configuration of at most {}", file.string(),
                                 size, kLargestFile));
  std::ifstream stream(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  check<ConfigError>(stream.good() || stream.eof(),
                     fmt::format("{}: cannot be read: {}", file.string(), std::strerror(errno)));
  return parse(text, file, settings);
}

Config parse(const std::string& text, const std::filesystem::path& file,
             const std::vector<std::string>& settings) {
  Config config;
  config.file = std::filesystem::absolute(file).lexically_normal();
  const std::filesystem::path folder = config.file.parent_path();
  Problems problems;
  Document document(text, file.string(), settings, problems);
  // A simulation can do without a model's weights, a folder and texts; `prune` asks check_prunable().
  const bool simulates = document.mentions("simulate") || !document.single("simulate").values.empty();
  read_section(document.single("model"), model_keys(), folder, config.model, problems, !simulates);
  read_section(document.single("run"), run_keys(), folder, config.run, problems, !simulates);
  read_section(document.single("prune"), prune_keys(), folder, config.prune, problems);
  read_section(document.single("calibration"), calibration_keys(), folder, config.calibration, problems);
  read_section(document.single("federation"), federation_keys(), folder, config.federation, problems);
  read_section(document.single("report"), report_keys(), folder, config.report, problems);
  if (simulates)
    read_section(document.single("simulate"), simulate_keys(), folder, config.simulate.emplace(), problems);
  read_list(document.list("client"), client_keys(), folder, config.clients, problems);
  read_list(document.list("evaluation"), evaluation_keys(), folder, config.evaluations, problems);
  complete_and_check(config, document, {file.string(), 0}, problems);
  problems.raise();
  return config;
}

std::string to_toml(const Config& config) {
  std::string text;
  print_section(text, "[model]", model_keys(), config.model);
  print_section(text, "[run]", run_keys(), config.run);
  print_section(text, "[prune]", prune_keys(), config.prune);
  print_section(text, "[calibration]", calibration_keys(), config.calibration);
  print_section(text, "[federation]", federation_keys(), config.federation);
  print_section(text, "[report]", report_keys(), config.report);
  if (config.simulate) print_section(text, "[simulate]", simulate_keys(), *config.simulate);
  for (const Client& client : config.clients) print_section(text, "[[client]]", client_keys(), client);
  for (const Evaluation& set : config.evaluations)
    print_section(text, "[[evaluation]]", evaluation_keys(), set);
  return text;
}

void check_prunable(const Config& config) {
  const std::string file = config.file.string();
  check<ConfigError>(!config.model.path.empty(),
                     fmt::format("{}: missing key 'model.path' (the folder of the model to prune)", file));
  check<ConfigError>(!config.run.dir.empty(),
                     fmt::format("{}: missing key 'run.dir' (the folder for the results)", file));
  check<ConfigError>(!config.clients.empty(), fmt::format("{}: no [[client]]: expected at least one", file));
}

double sparsity_of_round(const Config& config, int round) {
  require(round >= 1 && round <= config.federation.rounds, "1 <= round <= federation.rounds");
  const double left = 1.0 - static_cast<double>(round) / config.federation.rounds;
  return config.prune.sparsity * (1.0 - left * left * left);
}

}  // namespace fedspallm::config
