// SPDX-License-Identifier: Apache-2.0
// Purpose: times the pieces of pruning one client on a backend, each beside its limit measured in the same
// run: the sgemm rate of the BLAS on as many threads, or the triad bandwidth (on a GPU: its own largest
// product and y += x). For `fedspallm bench` and
// docs/measurements. Non-goals: files, messages, whole models; pass or fail.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fedspallm::backend {

struct BenchOptions {
  int threads = 1;      // as many as the backend has: for measuring the limits
  int repetitions = 5;  // the median is reported
  // SmolLM2-135M, 16 sequences of 512 tokens.
  std::int64_t hidden = 576, intermediate = 1536, heads = 9, kv_heads = 3, head_dim = 64;
  std::int64_t sequences = 16, sequence_length = 512, block_size = 128;
  std::int64_t limit_size = 2048;        // sgemm of this many rows, columns, depth for the limit
  std::int64_t triad_bytes = 3LL << 27;  // of the three arrays together; more than the last cache
};

struct BenchRow {
  std::string name;       // "linear q", "gram gate,up", ...
  std::string shape;      // "8192 x 576 x 576"
  int per_block = 0;      // how often one decoder block of the model needs it (order = "staged")
  double work = 0;        // flop, or bytes read and written at least once
  double seconds = 0;     // median
  std::string limit;      // "sgemm", "bf16" (work is flop) or "triad" (work is bytes)
  double limit_rate = 0;  // flop/s or bytes/s
  std::string lacks;      // why it was not measured, "" = it was
  [[nodiscard]] double rate() const { return work / seconds; }
  /// 1 = as fast as the limit.
  [[nodiscard]] double share() const { return rate() / limit_rate; }
};

/// @param name  "forward", "hessian", "factorization", "sweep", or "sparsegpt" for all of them and a last row
///   "decoder block" that adds them up: work = all flop, limit = each flop at its own; "spmm": products with
///   pruned matrices by their non-zeros (CSR) and, on a GPU, with 2:4 ones by cuSPARSELt beside the dense
///   product, each credited with the dense one's flop.
/// @throws ConfigError naming the known ones when there is no such benchmark.
[[nodiscard]] std::vector<BenchRow> run_backend_bench(Backend& backend, std::string_view name,
                                                      const BenchOptions& options);

/// flop/s of `threads` independent sgemms of size^3, one thread each.
[[nodiscard]] double measure_sgemm(int threads, std::int64_t size);
/// flop/s of products of bf16 pairs by the own register block, its operands in L1. @pre lacks_for() names
/// nothing
[[nodiscard]] double measure_bf16_products(int threads);
/// Bytes/s of a[i] = b[i] + s c[i] (counted as read twice, written once) over arrays of `bytes` in total.
[[nodiscard]] double measure_triad(int threads, std::int64_t bytes);

}  // namespace fedspallm::backend
