// SPDX-License-Identifier: Apache-2.0
// Purpose: the sums of 64 weights as UpdateOps keeps them (aggregate/tile.hpp, which backends do not know).
#pragma once

#include <cstdint>

namespace fedspallm::backend {

struct HostTile {
  std::int64_t sum[64];
  std::uint32_t kept[64];
};

}  // namespace fedspallm::backend
