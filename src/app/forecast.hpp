// SPDX-License-Identifier: Apache-2.0
// Purpose: what a run will need of memory, disk and network, from shapes alone; behind --dry-run and the
// check before work. Non-goal: time.
#pragma once

#include "plan.hpp"
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fedspallm::app {

struct RankForecast {
  int rank = 0;
  std::int64_t clients = 0;
  std::int64_t weights_bytes = 0;     // one block's weights in fp32 and their masks
  std::int64_t hidden_bytes = 0;      // hidden states of the rank's clients
  std::int64_t activation_bytes = 0;  // one stage and the batch workspace
  std::int64_t hessian_bytes = 0;     // largest Hessian, its factor and workspace
  std::int64_t transfer_bytes = 0;    // updates in flight, merge states at the root
  std::int64_t evaluation_bytes = 0;  // a phase of its own: head, hidden states of windows
  std::int64_t wire_bytes = 0;        // sent by this rank, all rounds
  /// Peak of the process, file pages aside.
  [[nodiscard]] std::int64_t peak_bytes() const;
};

/// Of a run directory.
struct DiskBytes {
  std::int64_t model = 0;    // and model.part
  std::int64_t run = 0;      // blocks, votes
  std::int64_t clients = 0;  // clients/
  std::int64_t states = 0;   // state/: clients' hidden states, as many generations as are kept
  [[nodiscard]] std::int64_t all() const { return model + run + clients + states; }
};

/// What a run directory holds already: a run that goes on, or starts over, needs that much less.
[[nodiscard]] DiskBytes disk_in_use(const std::filesystem::path& run_dir);

struct Forecast {
  std::vector<RankForecast> ranks;
  std::string transport, topology;
  std::vector<std::string> reasons;  // of the choice of both, in the first round
  DiskBytes disk;
};

/// Windows of the evaluation sets are taken as `evaluation_tokens` in all; `leaders` as for choose_way().
[[nodiscard]] Forecast forecast(const config::Config& config, const model::ModelDirectory& model, int ranks,
                                std::int64_t evaluation_tokens, const std::vector<int>& leaders = {});
[[nodiscard]] std::string to_text(const Forecast& forecast);

/// @throws ResourceError with numbers when `memory_available` (of the host, for `ranks_on_host` ranks) or
/// `disk_available` is below the need, less what is there already
void check_fits(const Forecast& forecast, std::int64_t memory_available, int ranks_on_host,
                std::int64_t disk_available, const DiskBytes& in_use = {});

}  // namespace fedspallm::app
