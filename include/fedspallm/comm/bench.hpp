// SPDX-License-Identifier: Apache-2.0
// Purpose: `fedspallm bench transport`: how fast each way brings clients' packed updates to the root as
// merged tiles, and what one more client costs, each beside its limits measured in the same run: plain
// messages on the same link, and one core that adds what has to be added. Non-goals: statistics over
// machines, pass or fail.
#pragma once

#include "fedspallm/comm/communicator.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::comm {

struct TransportBenchOptions {
  std::int64_t rows = 1536;  // of each matrix
  std::int64_t cols = 2048;
  int clients_per_rank = 1;
  int units = 4;    // matrices per measurement
  int repeats = 5;  // the median counts
  std::int64_t chunk_bytes = 1 << 20;
};

/// Seconds of something beside the least that its messages and its additions take.
struct Timing {
  double seconds = 0;       // median of the slowest rank
  double link_seconds = 0;  // the root's bytes at the rate of plain messages; 0 with one rank
  double core_seconds = 0;  // the additions of the busiest rank, by one core from memory to memory
  /// "plain messages" or "one core adding", whichever takes longer.
  [[nodiscard]] std::string limit() const;
  [[nodiscard]] double limit_seconds() const;
  /// 1 = as fast as the limit.
  [[nodiscard]] double share() const { return limit_seconds() / seconds; }
};

struct TransportTiming {
  std::string name;
  std::int64_t root_bytes = 0;  // that the root received per matrix
  Timing timing;                // per matrix
  bool same_bits = true;        // as the first one
};

struct TransportBench {
  int ranks = 1;
  int clients = 1;
  std::int64_t rows = 0, cols = 0;
  std::int64_t update_bytes = 0;          // packed, of all clients, per matrix: what has to be merged
  double copy_bytes_per_second = 0;       // memcpy of 8 MiB by the root's core: a byte once, not twice
  double link_bytes_per_second = 0;       // rank 1 to the root, messages of 8 MiB; 0 with one rank
  double add_seconds_per_weight = 0;      // adding one packed update to tiles, one thread
  double add_tiles_seconds_per_byte = 0;  // adding tiles to tiles, one thread
  std::vector<TransportTiming> timings;
};

/// Collective; the root's result counts.
[[nodiscard]] TransportBench bench_transports(Communicator& communicator,
                                              const TransportBenchOptions& options);

/// Weak scaling over virtual clients: their updates are spread over the ranks, merged and finished (averages,
/// votes, mask expansion) at the root.
struct ScalingBenchOptions {
  std::int64_t rows = 1536;  // SmolLM2-135M's gate and up
  std::int64_t cols = 576;
  std::vector<int> clients = {1, 2, 4, 8, 16, 32, 64};  // ascending
  int units = 4;                                        // matrices per measurement, each a block of its own
  int repeats = 5;
};

struct ScalingPoint {
  int clients = 1;
  std::int64_t update_bytes = 0;  // packed, of all clients
  Timing timing;                  // per matrix; core_seconds: what the root alone must add, and finish
  double cpu_seconds = 0;         // per matrix, of all threads of all ranks: hardly sees other work
};

/// y = fixed + per_unit x.
struct LineFit {
  double fixed = 0;
  double per_unit = 0;
};

struct ScalingSeries {
  std::string transport;
  std::vector<ScalingPoint> points;
  LineFit fit;      // seconds over clients
  LineFit cpu_fit;  // cpu_seconds over clients
};

/// Collective; the root's result counts. One series for each transport, the same clients in each.
/// @pre clients ascending, from 1; no more than 4096
[[nodiscard]] std::vector<ScalingSeries> bench_scaling(Communicator& communicator,
                                                       const ScalingBenchOptions& options);

/// The line with the least squares of relative residuals (a small y counts as much as a large one). With
/// fewer than two different x: per_unit = 0. @pre x.size() == y.size() > 0, y > 0
[[nodiscard]] LineFit fit_line(std::span<const double> x, std::span<const double> y);

/// Collective. Seconds of a message from rank 1 to the root and an empty answer over its bytes: `fixed` is
/// the latency, `per_unit` the inverse bandwidth, by fit_line() over 64 bytes to 8 MiB. The root alone knows
/// it; zeros with one rank. @pre repeats >= 1
[[nodiscard]] LineFit measure_link(Communicator& communicator, int repeats);

}  // namespace fedspallm::comm
