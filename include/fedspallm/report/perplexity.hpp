// SPDX-License-Identifier: Apache-2.0
// Purpose: perplexity as transformers computes it (rulings.md 11): fp32, each window alone, no BOS added,
// mean over the L - 1 predictions of all windows. Streams the model block by block, all windows through one
// block, so memory is one block and the windows' hidden states. Non-goals: which rank evaluates what (app/),
// files.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/data/tokens.hpp"
#include "fedspallm/model/decoder.hpp"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::report {

/// Gives the weights of one block: dense, or with a run's changes applied.
using BlockSource = std::function<model::BlockWeights(std::int64_t block)>;

/// Source that reads a model directory as it is.
[[nodiscard]] BlockSource dense_source(const model::ModelDirectory& model, backend::Backend& backend);

/// Sum over the L - 1 predictions of each window of its negative log-likelihoods, in the order of `sets` and
/// their windows. Embeddings and head come from `model`. Windows are taken in groups so that hidden states
/// stay below `budget_bytes`.
/// @throws NumericalError when a prediction is not finite
[[nodiscard]] std::vector<std::vector<double>> window_nll(
    const model::ModelDirectory& model, backend::Backend& backend, const BlockSource& source,
    std::span<const data::Windows> sets, std::int64_t budget_bytes = std::int64_t{512} << 20);

/// Mean NLL and perplexity from window sums.
struct Perplexity {
  std::int64_t samples = 0;
  std::int64_t predictions = 0;
  double nll = 0;
  double perplexity = 0;
};
/// @pre sums not empty, length >= 2
[[nodiscard]] Perplexity perplexity_of(std::span<const double> window_sums, std::int64_t length);

}  // namespace fedspallm::report
