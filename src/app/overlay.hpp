// SPDX-License-Identifier: Apache-2.0
// Purpose: a block's weights with a record's pruned matrices put over the dense ones.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/model/decoder.hpp"
#include "fedspallm/prune/block_pruner.hpp"
#include "fedspallm/store/records.hpp"

namespace fedspallm::app {

/// Replaces every pruned matrix of `record` in `weights`. @pre shapes agree
void apply_record(backend::Backend& backend, const store::BlockRecord& record, model::BlockWeights& weights);
/// The record's mask bits by matrix; empty where the matrix was not pruned.
[[nodiscard]] prune::PreviousMasks masks_of(const store::BlockRecord& record);

}  // namespace fedspallm::app
