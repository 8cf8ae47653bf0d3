// SPDX-License-Identifier: Apache-2.0
// The loops over tiles (kernels.hpp). Compiled once per kernel set.
#include "accumulate.hpp"
#include "average.hpp"
#include "compress.hpp"
#include "kernels.hpp"

namespace fedspallm::aggregate::FEDSPALLM_ISA {

extern const Kernels kKernels;

namespace {

void add_tiles(const Tile* from, Tile* into, std::int64_t tiles) {
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    for (int lane = 0; lane < kTile; ++lane) into[tile].sum[lane] += from[tile].sum[lane];
    for (int lane = 0; lane < kTile; ++lane) into[tile].kept[lane] += from[tile].kept[lane];
  }
}

}  // namespace

const Kernels kKernels = {
    {&add_packed<StoredF32>, &add_packed<StoredF16>, &add_packed<StoredBf16>},
    &add_tiles,
    {&average<StoredF32>, &average<StoredF16>, &average<StoredBf16>},
    &compress<2>,
    &compress<4>,
};

}  // namespace fedspallm::aggregate::FEDSPALLM_ISA
