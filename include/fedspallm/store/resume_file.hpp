// SPDX-License-Identifier: Apache-2.0
// Purpose: RUN_DIR/resume.json: whose work lies in a run directory and which clients were left out, so that a
// later process can tell whether it may go on there. Non-goals: what the facts mean and whether they differ
// (app/identity.hpp), how far the run got (the manifest and the clients' states).
#pragma once

#include "fedspallm/store/state_store.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::store {

/// A client that delivers nothing from a position on.
struct DroppedClient {
  std::uint32_t client = 0;
  Position from;
  std::string reason;
};

[[nodiscard]] nlohmann::json to_json(const std::vector<DroppedClient>& dropped);
/// @throws DataError or nlohmann::json::exception when to_json has not made it
[[nodiscard]] std::vector<DroppedClient> dropped_from_json(const nlohmann::json& list);

struct RunIdentity {
  std::uint64_t run_id = 0;  // random; marks the clients' states
  /// "prune.sparsity" -> "0.5", "client.novels.tokens_sha256", "model_sha256", "kernel_set", ...
  std::map<std::string, std::string> facts;
  std::vector<DroppedClient> dropped;
};

/// @throws ResourceError
void write_identity(const std::filesystem::path& file, const RunIdentity& identity);
/// Nothing when there is no such file.
/// @throws DataError naming the file when it is damaged
[[nodiscard]] std::optional<RunIdentity> read_identity(const std::filesystem::path& file);

}  // namespace fedspallm::store
