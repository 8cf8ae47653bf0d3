// SPDX-License-Identifier: Apache-2.0
// Purpose: what the checkpoint benchmark writes: a pruned matrix, a block's record, a model directory with
// random weights. Non-goal: timing (bench.cpp).
#pragma once

#include "fedspallm/store/bench.hpp"
#include "fedspallm/store/records.hpp"

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::store {

/// Name inside a block and shape of each matrix of a LLaMA block, in the architecture's order.
struct BenchMatrix {
  std::string suffix;
  std::int64_t rows = 0, cols = 0;
};
[[nodiscard]] std::vector<BenchMatrix> bench_matrices(const CheckpointBenchOptions& options);

/// `size` bytes that do not compress.
[[nodiscard]] std::vector<std::byte> random_bytes(std::size_t size);

/// One pruned bf16 matrix for each of bench_matrices(), half of the weights dropped, with votes; the counts
/// agree.
[[nodiscard]] BlockRecord bench_block(const CheckpointBenchOptions& options);

/// A LLaMA directory of config.json and model.safetensors in bf16. @throws ResourceError
void write_bench_model(const std::filesystem::path& directory, const CheckpointBenchOptions& options);

}  // namespace fedspallm::store
