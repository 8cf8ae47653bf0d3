// SPDX-License-Identifier: Apache-2.0
// Purpose: the sizes with which `bench` measures a backend. Non-goal: rows (bench_rows.hpp).
#pragma once

#include "fedspallm/backend/bench.hpp"

#include "../commands.hpp"

namespace fedspallm::app {

/// SmolLM2-135M and 16 sequences of 512 tokens, or (--quick) a few numbers.
[[nodiscard]] backend::BenchOptions backend_bench_sizes(const BenchOptions& options, int threads);

}  // namespace fedspallm::app
