// SPDX-License-Identifier: Apache-2.0
// Purpose: what the benchmarks of this folder share: updates of virtual clients, plans, limits, clocks.
// Non-goal: what is compared (bench.cpp, bench_scaling.cpp).
#pragma once

#include "fedspallm/comm/exchange.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace fedspallm::comm {

using BenchClock = std::chrono::steady_clock;

[[nodiscard]] double seconds_since(BenchClock::time_point start);
/// @pre not empty
[[nodiscard]] double median(std::vector<double> values);
/// Collective. Median over `repeats` of the slowest rank's seconds; each repeat begins at a barrier.
[[nodiscard]] double slowest_seconds(Communicator& communicator, int repeats,
                                     const std::function<void()>& work);

/// Largest |value| of every virtual client's matrix, so that all methods have the same scale.
constexpr float kBenchLargest = 1.0F;
/// bf16, half of the weights kept at random, values in (-1, 1], the first of them 1.
[[nodiscard]] wire::PackedMatrix bench_matrix(std::int64_t rows, std::int64_t cols, std::uint32_t client);

/// What a benchmark of the exchange repeats.
struct BenchPlan {
  std::int64_t rows = 0, cols = 0;
  int clients = 1;        // client i on rank i mod ranks
  int units = 1;          // matrices
  bool one_block = true;  // all matrices in one block, or each in its own (then few are in flight)
};
[[nodiscard]] ExchangePlan make_bench_plan(const BenchPlan& plan, int ranks);

/// This rank's virtual clients and their matrices, the same for every unit.
using OwnMatrices = std::map<std::uint32_t, const wire::PackedMatrix*>;

/// Collective. Sends every planned update of this rank through an exchange, to its end.
void run_exchange(Communicator& communicator, const ExchangePlan& plan, const ExchangeOptions& options,
                  const OwnMatrices& own, const Exchange::OnCompleted& on_completed);

/// Collective. Bytes/s of 8 MiB messages from rank 1 to the root, which alone knows it; 0 with one rank.
[[nodiscard]] double link_rate(Communicator& communicator, int repeats);
/// Bytes/s of memcpy over 8 MiB.
[[nodiscard]] double copy_rate(int repeats);

}  // namespace fedspallm::comm
