// SPDX-License-Identifier: Apache-2.0
// Purpose: everything a run reads, opened and checked on all ranks before any work starts; errors of all
// ranks are reported together. Evaluation windows are read by the root and sent to the others; a client's
// tokens are opened by its own rank only (rulings.md 14).
#pragma once

#include "fedspallm/comm/communicator.hpp"
#include "fedspallm/config/config.hpp"
#include "fedspallm/data/tokens.hpp"
#include "fedspallm/model/model_directory.hpp"

#include "identity.hpp"
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::app {

struct LocalClient {
  std::uint32_t index = 0;  // in the config
  std::string name;
  data::Windows windows;
  std::string token_sha256;
};

struct EvaluationSet {
  std::string name;
  std::string tokens_path;
  data::Windows windows;
};

struct Inputs {
  std::unique_ptr<model::ModelDirectory> model;
  std::vector<int> rank_of_client;
  std::vector<LocalClient> clients;        // of this rank
  std::vector<EvaluationSet> evaluations;  // on every rank
  std::vector<std::string> token_sha256;   // of every client, at the root
  std::vector<std::string> warnings;       // of all ranks, at the root
  std::vector<DroppedClient> dropped;      // on every rank: clients whose tokens cannot be used, where asked
};

/// Rank 0 reads the file; everybody gets the resolved result. @throws ConfigError alike on all ranks
[[nodiscard]] config::Config load_config(comm::Communicator& communicator, const std::string& file,
                                         const std::vector<std::string>& settings);

/// Collective.
/// @param assumed_ranks  for a forecast of so many ranks: clients' ranks are those, this run's ranks share
/// the token files that are here, and others are remarked on; 0 = no forecast of another size
/// @throws the joined errors of all ranks
[[nodiscard]] Inputs open_inputs(comm::Communicator& communicator, const config::Config& config,
                                 int assumed_ranks = 0);

/// Evaluation windows of one file. @throws DataError
[[nodiscard]] EvaluationSet read_evaluation(const std::string& name, const std::filesystem::path& tokens,
                                            std::optional<std::int64_t> samples, std::int64_t length,
                                            const model::Architecture& architecture,
                                            std::vector<std::string>& warnings);

/// Windows as bytes and back, for sending between ranks.
[[nodiscard]] std::vector<EvaluationSet> share(comm::Communicator& communicator,
                                               std::vector<EvaluationSet> sets);

}  // namespace fedspallm::app
