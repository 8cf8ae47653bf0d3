// SPDX-License-Identifier: Apache-2.0
// Purpose: rotary position parameters from config.json in all spellings. Not public.
#pragma once

#include "fedspallm/model/architecture.hpp"

#include "config_reader.hpp"

namespace fedspallm::model {

/// Reads rope_parameters (transformers 5) or rope_theta and rope_scaling (transformers 4).
/// @throws ModelError for any type other than default, linear, llama3, and for partial rotation.
[[nodiscard]] Rope read_rope(const ConfigReader& config, const std::string& file, std::int64_t max_positions);

}  // namespace fedspallm::model
