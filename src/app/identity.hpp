// SPDX-License-Identifier: Apache-2.0
// Purpose: whether a run directory belongs to this run: what decides the result, and what differs from what
// RUN_DIR/resume.json holds. Paths, threads, ranks and transports are not part of it: they change no bit.
// Non-goals: the file (store/resume_file.hpp), how far the run got (checkpoint.hpp).
#pragma once

#include "fedspallm/config/config.hpp"
#include "fedspallm/store/resume_file.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fedspallm::app {

using store::DroppedClient;
using store::RunIdentity;

[[nodiscard]] bool is_dropped(const std::vector<DroppedClient>& dropped, std::uint32_t client);
/// Whether it delivers nothing at `position`.
[[nodiscard]] bool is_dropped(const std::vector<DroppedClient>& dropped, std::uint32_t client,
                              store::Position position);

/// Every fact that decides the result. @pre one digest per client of the config
[[nodiscard]] std::map<std::string, std::string> identity_facts(const config::Config& config,
                                                                const std::string& model_sha256,
                                                                const std::vector<std::string>& token_sha256,
                                                                const std::string& kernel_set);

/// What stands between the kernel sets of ranks that have different ones.
constexpr std::string_view kKernelSetsJoin = " + ";
/// The kernel sets of the ranks that prune, each once, as the fact `kernel_set`. @param of_ranks  "" = has no
/// client
[[nodiscard]] std::string joined_kernel_sets(const std::vector<std::string>& of_ranks);

/// One line per fact that differs: "prune.sparsity: 0.5 in the run directory, 0.6 now".
[[nodiscard]] std::vector<std::string> differences(const std::map<std::string, std::string>& recorded,
                                                   const std::map<std::string, std::string>& now);

}  // namespace fedspallm::app
