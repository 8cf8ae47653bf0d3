// SPDX-License-Identifier: Apache-2.0
// Purpose: how work on the tiles of a matrix is cut into units for threads: by shape only (rulings.md 8).
#pragma once

#include "fedspallm/base/rounding.hpp"
#include "fedspallm/base/thread_pool.hpp"

#include <algorithm>
#include <cstdint>

namespace fedspallm::aggregate {

constexpr std::int64_t kUnit = 1024;  // tiles: 65,536 weights, 768 KiB of sums

[[nodiscard]] constexpr std::int64_t units_of(std::int64_t tiles, std::int64_t per_unit = kUnit) {
  return divide_up(tiles, per_unit);
}

/// Runs body(unit, first_tile, last_tile, worker) for all units, on the pool where there is one.
template <class Body>
void for_each_unit(ThreadPool* pool, std::int64_t tiles, Body body, std::int64_t per_unit = kUnit) {
  const auto run = [&](std::int64_t unit, int worker) {
    body(unit, unit * per_unit, std::min(tiles, (unit + 1) * per_unit), worker);
  };
  const std::int64_t units = units_of(tiles, per_unit);
  if (pool != nullptr && pool->size() > 1) {
    pool->run(units, run);
  } else {
    for (std::int64_t unit = 0; unit < units; ++unit) run(unit, 0);
  }
}

[[nodiscard]] inline std::size_t workers_of(const ThreadPool* pool) {
  return pool != nullptr ? static_cast<std::size_t>(pool->size()) : 1;
}

}  // namespace fedspallm::aggregate
