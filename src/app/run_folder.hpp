// SPDX-License-Identifier: Apache-2.0
// Purpose: keeps `prune` from writing over files that no run made.
#pragma once

#include "fedspallm/config/config.hpp"

namespace fedspallm::app {

/// Whether a run was begun in the folder: it holds what one leaves from its first moments on.
[[nodiscard]] bool holds_run(const std::filesystem::path& run_dir);

/// @throws ConfigError when a run in run.dir would write over its own configuration, or holds model/, state/,
/// clients/ or blocks/ that no run made
void check_run_folder(const config::Config& config);

}  // namespace fedspallm::app
