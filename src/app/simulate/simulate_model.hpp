// SPDX-License-Identifier: Apache-2.0
// Purpose: the shapes of the model that a simulation pretends to prune, without its weights: from config.json
// of a Hugging Face folder, or of a model known by name; and what pruning one of its blocks costs. Non-goal:
// weights.
#pragma once

#include "fedspallm/config/config.hpp"
#include "fedspallm/model/architecture.hpp"

#include "../plan.hpp"
#include <string>

namespace fedspallm::app {

struct SimulatedModel {
  std::string name;
  model::Architecture architecture;
  DType dtype = DType::bf16;  // of the pruned matrices
  [[nodiscard]] PlanModel plan_model() const;
  [[nodiscard]] std::int64_t block_weights() const;  // pruned ones of one block
};

/// @throws ModelError, or ConfigError where no folder is given
[[nodiscard]] SimulatedModel simulated_model(const config::Config& config);

/// Floating-point operations of one client for one block.
struct BlockWork {
  double pass = 0;   // the forward pass alone: of a block that the client does not prune
  double prune = 0;  // with Hessians, factorizations and sweeps (SparseGPT, each of them once)
};
[[nodiscard]] BlockWork block_work(const model::Architecture& architecture,
                                   const config::Calibration& calibration);

}  // namespace fedspallm::app
