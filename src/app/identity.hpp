// SPDX-License-Identifier: Apache-2.0
// Purpose: whether a run directory belongs to this run: what decides the result, kept in RUN_DIR/resume.json,
// and what differs from it now. Paths, threads, ranks and transports are not part of it: they change no bit.
// Non-goal: how far the run got (checkpoint.hpp).
#pragma once

#include "fedspallm/config/config.hpp"
#include "fedspallm/store/state_store.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::app {

/// A client that delivers nothing from a position on.
struct DroppedClient {
  std::uint32_t client = 0;
  store::Position from;
  std::string reason;
};

[[nodiscard]] bool is_dropped(const std::vector<DroppedClient>& dropped, std::uint32_t client);
/// Whether it delivers nothing at `position`.
[[nodiscard]] bool is_dropped(const std::vector<DroppedClient>& dropped, std::uint32_t client,
                              store::Position position);

[[nodiscard]] nlohmann::json to_json(const std::vector<DroppedClient>& dropped);
/// @throws nlohmann::json::exception when to_json has not made it
[[nodiscard]] std::vector<DroppedClient> dropped_from_json(const nlohmann::json& list);

struct RunIdentity {
  std::uint64_t run_id = 0;  // random; marks the clients' states
  /// "prune.sparsity" -> "0.5", "client.novels.tokens_sha256", "model_sha256", "kernel_set", ...
  std::map<std::string, std::string> facts;
  std::vector<DroppedClient> dropped;
};

/// Every fact that decides the result. @pre one digest per client of the config
[[nodiscard]] std::map<std::string, std::string> identity_facts(const config::Config& config,
                                                                const std::string& model_sha256,
                                                                const std::vector<std::string>& token_sha256,
                                                                const std::string& kernel_set);

/// One line per fact that differs: "prune.sparsity: 0.5 in the run directory, 0.6 now".
[[nodiscard]] std::vector<std::string> differences(const std::map<std::string, std::string>& recorded,
                                                   const std::map<std::string, std::string>& now);

void write_identity(const std::filesystem::path& file, const RunIdentity& identity);
/// Nothing when there is no such file. @throws DataError naming the file when it is damaged
[[nodiscard]] std::optional<RunIdentity> read_identity(const std::filesystem::path& file);

}  // namespace fedspallm::app
