// SPDX-License-Identifier: Apache-2.0
// Purpose: perplexities of several models over all evaluation sets, spread over the ranks. A model's windows
// are dealt out to the ranks that can see it; sums come back by window, so the result does not depend on the
// number of ranks.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/comm/communicator.hpp"
#include "fedspallm/report/perplexity.hpp"

#include "inputs.hpp"
#include <map>
#include <string>
#include <vector>

namespace fedspallm::app {

/// Collective. `source` gives the model's blocks on ranks with participates = true (at least one rank).
/// @param label  of the model, for messages
/// @return by set, at the root; empty elsewhere
/// @throws NumericalError naming model and set when a result is not finite
[[nodiscard]] std::vector<report::Perplexity> evaluate(comm::Communicator& communicator,
                                                       const model::ModelDirectory& model,
                                                       backend::Backend& backend,
                                                       const report::BlockSource& source,
                                                       const std::vector<EvaluationSet>& sets,
                                                       bool participates, const std::string& label);

/// Several models, each seen by one rank only (stand-alone clients): every rank evaluates its own.
struct OwnModel {
  std::string label;
  report::BlockSource source;
};
/// Collective. @return label -> by set, at the root
[[nodiscard]] std::map<std::string, std::vector<report::Perplexity>> evaluate_own(
    comm::Communicator& communicator, const model::ModelDirectory& model, backend::Backend& backend,
    const std::vector<OwnModel>& models, const std::vector<EvaluationSet>& sets);

}  // namespace fedspallm::app
