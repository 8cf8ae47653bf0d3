// SPDX-License-Identifier: Apache-2.0
// Configurations: the input is a TOML file; lines behind a line "%%" are --set arguments.
#include "fedspallm/config/config.hpp"

#include "fuzz/fuzz.hpp"
#include <sstream>

using namespace fedspallm;

namespace {

const std::filesystem::path kFile = "/fuzz/config.toml";

void check_accepted(const config::Config& config) {
  fuzz::promise(config::parse(config::to_toml(config), kFile) == config,
                "a printed configuration reads back equal");
  fuzz::promise(config.prune.sparsity >= 0 && config.prune.sparsity <= 1, "0 <= sparsity <= 1");
  fuzz::promise(!config.clients.empty(), "at least one client");
  for (const config::Client& client : config.clients) {
    fuzz::promise(client.resources > 0 && client.resources <= 1, "0 < resources <= 1");
    fuzz::promise(!client.tokens.empty() && client.name.find('/') == std::string::npos,
                  "tokens, and a plain name");
  }
  const double last = config::sparsity_of_round(config, config.federation.rounds);
  fuzz::promise(last == config.prune.sparsity, "the last round reaches the sparsity asked");
  for (const std::string& remark : config::remarks(config))
    fuzz::promise(!remark.empty(), "remarks say something");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::string> parts = fuzz::sections(fuzz::text_of({data, size}));
  std::vector<std::string> settings;
  for (std::size_t i = 1; i < parts.size(); ++i) {
    std::istringstream lines(parts[i]);
    for (std::string line; std::getline(lines, line);) settings.push_back(line);
  }
  config::Config config;
  if (fuzz::accepts([&] { config = config::parse(parts.front(), kFile, settings); })) check_accepted(config);
  return 0;
}
