// SPDX-License-Identifier: Apache-2.0
// Purpose: `fedspallm bench transport`: how fast each way brings clients' packed updates to the root as
// merged tiles, beside what a plain message reaches on the same link in the same run. Non-goals: statistics
// over machines, pass or fail.
#pragma once

#include "fedspallm/comm/communicator.hpp"

#include <cstdint>
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

struct TransportTiming {
  std::string name;
  std::int64_t root_bytes = 0;      // that the root received per matrix
  double seconds = 0;               // per matrix, median of the slowest rank
  double gigabytes_per_second = 0;  // root_bytes / seconds
  double of_link = 0;               // the same as a share of the plain message rate; 0 with one rank
  bool same_bits = true;            // as the first one
};

struct TransportBench {
  int ranks = 1;
  std::int64_t weights = 0;              // per matrix
  double link_gigabytes_per_second = 0;  // rank 1 to the root, messages of 8 MiB
  double merge_seconds_per_weight = 0;   // adding one packed update to tiles, one thread
  double tiles_seconds_per_byte = 0;     // adding tiles to tiles, one thread
  std::vector<TransportTiming> timings;
};

/// Collective; the root's result counts.
[[nodiscard]] TransportBench bench_transports(Communicator& communicator,
                                              const TransportBenchOptions& options);
/// A table for people.
[[nodiscard]] std::string to_text(const TransportBench& bench);

}  // namespace fedspallm::comm
