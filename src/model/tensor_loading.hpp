// SPDX-License-Identifier: Apache-2.0
// Purpose: one tensor of a model directory onto a backend, widened to fp32 and checked for NaN. Not public.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/model/model_directory.hpp"

#include <string>

namespace fedspallm::model {

/// Copies tensor `name` over `destination`. @throws NumericalError naming file, tensor and element when one
/// is not finite
void load_into(const ModelDirectory& model, const std::string& name, backend::Backend& backend,
               backend::View destination);
/// The same into new memory; vectors become one row.
[[nodiscard]] backend::Tensor load_tensor(const ModelDirectory& model, const std::string& name,
                                          backend::Backend& backend);

/// A norm's weight and bias as the norm op wants them: ones for a norm without weight, no bias where there is
/// none.
struct NormTensors {
  backend::Tensor weight, bias;
};
[[nodiscard]] NormTensors load_norm(const ModelDirectory& model, const std::string& stem,
                                    backend::Backend& backend);

}  // namespace fedspallm::model
