// SPDX-License-Identifier: Apache-2.0
// Purpose: the norm that an architecture uses on hidden states, on a backend. Not public.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/model/architecture.hpp"

namespace fedspallm::model {

inline void apply_norm(backend::Backend& backend, const Architecture& architecture, backend::View x,
                       backend::View weight, backend::View bias, backend::View y) {
  const auto kind = architecture.norm == NormKind::rms ? backend::Norm::rms : backend::Norm::layer;
  backend.model().norm(kind, x, weight, bias, static_cast<float>(architecture.norm_epsilon), y);
}

}  // namespace fedspallm::model
