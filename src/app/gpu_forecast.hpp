// SPDX-License-Identifier: Apache-2.0
// Purpose: what a rank will need of its GPU's memory, from shapes alone, and which clients' hidden states
// stay there: for --dry-run, and for LocalClients, which places them so. Non-goals: host memory
// (forecast.hpp), time.
#pragma once

#include "fedspallm/config/config.hpp"
#include "fedspallm/model/model_directory.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::app {

/// What decides the memory of a rank's GPU.
struct GpuWork {
  std::vector<std::int64_t> tokens;  // calibration tokens of each of the rank's clients
  std::int64_t sequence_length = 512;
  std::int64_t block_size = 128;
  config::Method method = config::Method::sparsegpt;
  config::Order order = config::Order::staged;
  config::Products products = config::Products::f32;
  double sparsity = 0.5;
  std::int64_t value_bytes = 2;         // of a kept weight on the wire
  std::int64_t stored_block_bytes = 0;  // one block's matrices as the model's files have them
  bool later_rounds = false;            // masks of the round before are needed too
  bool updates_on_device = false;       // transport nccl: updates in flight stay there
  bool merges_on_device = false;        // ... and this rank is the root
  std::int64_t vote_bytes = 1;          // of a merged weight: as many as hold the number of clients
};

/// The work of one rank. @param on_device  updates travel from GPU to GPU (transport nccl)
[[nodiscard]] GpuWork gpu_work(const config::Config& config, const model::ModelDirectory& model,
                               const std::vector<int>& rank_of_client, int rank, bool on_device);

/// Bytes. Sums of what the program asks for are exact but for rows of norms and biases; `allowance` is what
/// the driver and NVIDIA's libraries take beside, a guess that is meant to be high.
struct GpuForecast {
  std::int64_t weights = 0;      // one block in fp32, its largest mask
  std::int64_t activations = 0;  // one stage of the largest client, and a batch
  std::int64_t hessian = 0;      // Hessians and factor
  std::int64_t workspace = 0;    // of the largest op, products, conversions
  std::int64_t transfer = 0;     // updates in flight, the merge (nccl)
  std::int64_t allowance = 0;
  std::int64_t ahead =
      0;  // a block as stored and the next one, which comes meanwhile; it can be done without
  std::vector<std::int64_t> hidden;  // of each client
  /// All but the hidden states and what comes ahead.
  [[nodiscard]] std::int64_t fixed() const {
    return weights + activations + hessian + workspace + transfer + allowance;
  }
  [[nodiscard]] std::int64_t all_hidden() const;
  /// With all hidden states on the device and the next block; with one client's at a time alone.
  [[nodiscard]] std::int64_t most() const { return fixed() + ahead + all_hidden(); }
  [[nodiscard]] std::int64_t least() const;
};

/// @pre sequence_length >= 1, every number of tokens >= 0
[[nodiscard]] GpuForecast forecast_gpu(const model::Architecture& architecture, const GpuWork& work);

/// Where the clients' hidden states are kept.
struct HiddenPlacement {
  std::vector<bool> on_device;    // by client; the others take turns in one slot and rest in host memory
  std::int64_t device_bytes = 0;  // of the states that stay, and the slot
  std::int64_t host_bytes = 0;    // pinned
};
/// All on the device where `room` bytes are enough, else as many of the first clients as leave a slot for the
/// largest of the others. Nothing where not even one client at a time fits.
[[nodiscard]] std::optional<HiddenPlacement> place_hidden(const std::vector<std::int64_t>& hidden,
                                                          std::int64_t room);

/// What a rank does with the memory of its GPU: the next block's weights come ahead before more hidden states
/// than one client's stay.
struct GpuPlan {
  HiddenPlacement hidden;
  bool load_ahead = false;
  bool fits = true;  // false: all rest in host memory, and what the run needs is more than there is
  std::int64_t peak_bytes = 0;
};
[[nodiscard]] GpuPlan plan_gpu(const GpuForecast& forecast, std::int64_t memory);

/// A line for a rank: what it needs, and, with the memory of its GPU (of this rank, 0 = not known), where the
/// hidden states go.
[[nodiscard]] std::string to_text(int rank, const GpuForecast& forecast, std::int64_t memory);

}  // namespace fedspallm::app
