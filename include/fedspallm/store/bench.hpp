// SPDX-License-Identifier: Apache-2.0
// Purpose: `fedspallm bench checkpoint`: what durable files cost (a block's HDF5 file with its manifest, a
// client's state, the output model), each beside a plain write and fsync of as many bytes in the same folder,
// turn by turn in the same run. Non-goals: what recomputing a state would cost (backend/bench.hpp), pass or
// fail.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fedspallm::store {

struct CheckpointBenchOptions {
  int repeats = 5;  // the median counts
  // SmolLM2-135M and 16 sequences of 512 tokens; the output model has fewer blocks and a smaller vocabulary.
  std::int64_t hidden = 576, intermediate = 1536, heads = 9, kv_heads = 3, head_dim = 64;
  std::int64_t tokens = std::int64_t{16} * 512;
  std::int64_t model_blocks = 8, vocabulary = 8192;
  std::uint32_t clients = 4;  // that vote
};

struct CheckpointBenchRow {
  std::string name;
  std::string shape;
  std::int64_t bytes = 0;    // of the files that were written or read
  double seconds = 0;        // median
  std::string limit;         // "write + fsync", "write" or "read" of a plain file of as many bytes
  double limit_seconds = 0;  // median
  /// 1 = as fast as the plain file.
  [[nodiscard]] double share() const { return limit_seconds / seconds; }
};

/// Works in a new folder below `folder`, which is removed at the end; needs the bytes of repeats + 2 output
/// models (66 MB each by default).
/// @pre repeats, sizes and clients >= 1
/// @throws ResourceError where `folder` is no folder that can be written
[[nodiscard]] std::vector<CheckpointBenchRow> bench_checkpoint(const std::filesystem::path& folder,
                                                               const CheckpointBenchOptions& options);

}  // namespace fedspallm::store
