// SPDX-License-Identifier: Apache-2.0
// Purpose: the rules between keys, each of which is well by itself, and what follows from other keys (an N:M
// pattern's sparsity, kept clients). Rules whose keys were already refused stay silent. Non-goals: what needs
// the model or the world's size; that is checked where they are known.
#pragma once

#include "fedspallm/config/config.hpp"

#include "document.hpp"

namespace fedspallm::config {

void complete_and_check(Config& config, Document& document, const Origin& file, Problems& problems);

}  // namespace fedspallm::config
