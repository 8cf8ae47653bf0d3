// SPDX-License-Identifier: Apache-2.0
#include "identity.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <set>
#include <sstream>

namespace fedspallm::app {

namespace {

/// The configuration with everything at its default that changes no bit of the result.
config::Config deciding(config::Config config) {
  config.model.path = "model";  // its content counts, by digest
  const std::uint64_t seed = config.run.seed;
  const bool keep_clients = config.run.keep_clients;
  const config::Products products = config.run.products;
  config.run = {};
  config.run.dir = "run";
  config.run.seed = seed;
  config.run.keep_clients = keep_clients;
  config.run.products = products;
  config.federation.transport = {};
  config.federation.topology = {};
  config.federation.chunk_bytes = config::Federation{}.chunk_bytes;
  config.federation.on_client_failure = {};
  config.federation.deadline = 0;
  config.report = {};
  config.evaluations.clear();
  for (config::Client& client : config.clients) {
    client.tokens = {"tokens"};
    client.rank.reset();
  }
  return config;
}

std::string unquoted(const std::string& text) {
  return text.size() >= 2 && text.front() == '"' && text.back() == '"' ? text.substr(1, text.size() - 2)
                                                                       : text;
}

/// "section.key" -> value of to_toml's text, which has one key a line; list entries by their name.
std::map<std::string, std::string> flat(const std::string& toml) {
  std::map<std::string, std::string> facts;
  std::istringstream lines(toml);
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("[[")) {
      section = line.substr(2, line.find(']') - 2);
    } else if (line.starts_with("[")) {
      section = line.substr(1, line.find(']') - 1);
    } else if (const auto equals = line.find(" = "); equals != std::string::npos) {
      const std::string key = line.substr(0, equals), value = line.substr(equals + 3);
      if (key == "name" && section.starts_with("client")) section = "client." + unquoted(value);
      facts[section + "." + key] = value;
    }
  }
  return facts;
}

}  // namespace

std::map<std::string, std::string> identity_facts(const config::Config& config,
                                                  const std::string& model_sha256,
                                                  const std::vector<std::string>& token_sha256,
                                                  const std::string& kernel_set) {
  require(token_sha256.size() == config.clients.size(), "identity_facts: one digest per client");
  auto facts = flat(config::to_toml(deciding(config)));
  std::string order;  // random numbers are keyed by the client's place in the list
  for (std::size_t client = 0; client < config.clients.size(); ++client) {
    const std::string& name = config.clients[client].name;
    facts["client." + name + ".tokens_sha256"] = token_sha256[client];
    order += (order.empty() ? "" : ", ") + name;
  }
  facts["clients"] = order;
  facts["model_sha256"] = model_sha256;
  facts["kernel_set"] = kernel_set;
  return facts;
}

std::vector<std::string> differences(const std::map<std::string, std::string>& recorded,
                                     const std::map<std::string, std::string>& now) {
  std::vector<std::string> lines;
  const auto value = [](const std::map<std::string, std::string>& facts, const std::string& key) {
    const auto found = facts.find(key);
    return found == facts.end() ? std::string("nothing") : found->second;
  };
  std::map<std::string, std::string> all = recorded;
  all.insert(now.begin(), now.end());
  for (const auto& [key, unused] : all) {
    const std::string before = value(recorded, key), after = value(now, key);
    if (before != after)
      lines.push_back(fmt::format("{}: {} in the run directory, {} now", key, before, after));
  }
  return lines;
}

bool is_dropped(const std::vector<DroppedClient>& dropped, std::uint32_t client) {
  return std::any_of(dropped.begin(), dropped.end(),
                     [&](const DroppedClient& one) { return one.client == client; });
}

bool is_dropped(const std::vector<DroppedClient>& dropped, std::uint32_t client, store::Position position) {
  return std::any_of(dropped.begin(), dropped.end(),
                     [&](const DroppedClient& one) { return one.client == client && one.from <= position; });
}

std::string joined_kernel_sets(const std::vector<std::string>& of_ranks) {
  std::set<std::string> sets(of_ranks.begin(), of_ranks.end());
  sets.erase("");
  return fmt::format("{}", fmt::join(sets, kKernelSetsJoin));
}

}  // namespace fedspallm::app
