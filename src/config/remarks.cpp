// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/config/config.hpp"

#include <fmt/format.h>

#include <map>

namespace fedspallm::config {

namespace {

void remark_on_resources(const Config& config, std::vector<std::string>& result) {
  bool some_weak = false;
  for (const Client& client : config.clients) some_weak = some_weak || client.resources < 1.0;
  const bool sampled = config.federation.layer_sampling == LayerSampling::resources;
  if (some_weak && !sampled)
    result.emplace_back(
        "clients' resources have no effect: federation.layer_sampling is \"none\", so every client prunes "
        "every "
        "block");
  if (!some_weak && sampled)
    result.emplace_back(
        "federation.layer_sampling = \"resources\" has no effect: every client has resources = 1.0");
}

void remark_on_shared_text(const Config& config, std::vector<std::string>& result) {
  std::map<std::filesystem::path, std::string> owner;
  for (const Client& client : config.clients)
    for (const auto& file : client.tokens) {
      const auto [first, is_new] = owner.emplace(file, client.name);
      if (!is_new)
        result.push_back(fmt::format("{} is calibration text of client '{}' and again of '{}'", file.string(),
                                     first->second, client.name));
    }
}

}  // namespace

std::vector<std::string> remarks(const Config& config) {
  std::vector<std::string> result;
  remark_on_resources(config, result);
  remark_on_shared_text(config, result);
  if (config.evaluations.empty())
    result.emplace_back(
        config.report.standalone
            ? "report.standalone has no effect: there is no [[evaluation]] to compare the clients on"
            : "there is no [[evaluation]]: the summary will hold no perplexity");
  // For method "magnitude" that is what one would expect of the default.
  if (config.prune.method == Method::random && config.federation.mask_expansion &&
      config.federation.tie == Tie::score && config.federation.aggregation != Aggregation::none)
    result.push_back(fmt::format(
        "federation.tie = \"score\" needs activations, which method \"{}\" does not look at: ties go by "
        "magnitude",
        name_of(config.prune.method)));
  return result;
}

}  // namespace fedspallm::config
