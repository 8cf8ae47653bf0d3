// SPDX-License-Identifier: Apache-2.0
// Purpose: how fast merging is beside what the machine allows (rulings.md 34): the bytes that must move at
// the rate of a triad measured in the same run, and the same code on data that stay in the first-level cache.
// Non-goals: printing (fedspallm bench), transport.
#pragma once

#include "fedspallm/base/dtype.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace fedspallm {
class ThreadPool;
}

namespace fedspallm::aggregate {

struct MergeShape {
  std::string name;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

/// The matrices of SmolLM2-135M and of a LLaMA-2-7B.
[[nodiscard]] std::vector<MergeShape> bench_shapes();

struct MergeBenchOptions {
  std::int64_t clients = 8;
  double sparsity = 0.5;
  DType dtype = DType::bf16;
  int repeats = 5;  // the best one counts: other work on the machine only adds time
};

/// One step: its time, the bytes that it must read and write once, its limits.
struct MergeTiming {
  double seconds = 0;
  double bytes = 0;             // inputs read once + outputs written once
  double triad_seconds = 0;     // bytes at the triad's rate
  double in_cache_seconds = 0;  // the same code on data in the first-level cache, scaled to as many weights
  /// Against the larger limit; wanted: <= 1.5.
  [[nodiscard]] double ratio() const;
};

struct MergeBenchResult {
  MergeShape shape;
  MergeTiming add_one_by_one;     // PartialMerge::add per client, as a root does while updates arrive
  MergeTiming add_at_once;        // all clients in one pass over the tiles
  MergeTiming finish;             // averages, votes, mask expansion by score, packing
  MergeTiming whole;              // one by one + finish
  std::int64_t update_bytes = 0;  // payload of one client
};

struct MergeBenchReport {
  double triad_bytes_per_second = 0;  // a[i] = b[i] + s c[i], 24 bytes an element
  int threads = 1;
  std::string kernels;  // name of the kernel set
  std::vector<MergeBenchResult> results;
};

/// @pre clients >= 1, repeats >= 1. Takes about a second a shape and needs 14 bytes a weight + 600 MB for the
/// triad.
[[nodiscard]] MergeBenchReport bench_merge(const std::vector<MergeShape>& shapes,
                                           const MergeBenchOptions& options, ThreadPool* pool);

}  // namespace fedspallm::aggregate
