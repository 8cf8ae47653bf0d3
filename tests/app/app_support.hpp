// SPDX-License-Identifier: Apache-2.0
// Purpose: a configuration over a golden model, without files of tokens.
#pragma once

#include "fedspallm/config/config.hpp"

#include "support/support.hpp"

namespace fedspallm::app {

inline config::Config config_for(const std::string& model, int clients) {
  config::Config config;
  config.model.path = test::data_path(model);
  config.run.dir = "unused";
  config.calibration = {.samples = 4, .sequence_length = 32};
  for (int i = 0; i < clients; ++i) {
    config::Client& client = config.clients.emplace_back();
    client.name = "c" + std::to_string(i);
    client.tokens = {"unused.h5"};
  }
  return config;
}

}  // namespace fedspallm::app
