// SPDX-License-Identifier: Apache-2.0
// backend_bench [NAME|cases] [THREADS] [REPETITIONS] [cpu|cuda|cuda-f16|cuda-bf16] [smollm2-135m|llama-2-7b]:
// the table of docs/measurements/backend.md, or the seconds of each op over the case list of the parity
// tests. Not a test: nothing passes or fails by time.
#include "fedspallm/backend/bench.hpp"
#include "fedspallm/backend/cuda.hpp"

#include <fmt/format.h>

#include "../backend/cases.hpp"
#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <stdexcept>

namespace {

using namespace fedspallm;

void print_table(backend::Backend& backend, const std::string& name, const backend::BenchOptions& options) {
  fmt::print("{}, {} threads\n", backend.kernel_set(), options.threads);
  fmt::print("| piece | shape | per block | ms | rate | limit | share |\n|---|---|---|---|---|---|---|\n");
  for (const backend::BenchRow& row : run_backend_bench(backend, name, options)) {
    if (!row.lacks.empty()) {
      fmt::print("| {} | {} | | not measured: {} | | | |\n", row.name, row.shape, row.lacks);
      continue;
    }
    const char* unit = row.limit == "sgemm" ? "GFLOP/s" : "GB/s";
    fmt::print("| {} | {} | {} | {:.3f} | {:.1f} {} | {:.1f} {} | {:.0f} % |\n", row.name, row.shape,
               row.per_block, row.seconds * 1e3, row.rate() * 1e-9, unit, row.limit_rate * 1e-9, row.limit,
               row.share() * 100);
  }
}

void print_cases(backend::Backend& backend) {
  std::map<std::string, double> seconds;
  for (const test::Case& item : test::all_cases()) {
    const auto start = std::chrono::steady_clock::now();
    static_cast<void>(test::run_case(backend, item));
    seconds[item.op] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  for (const auto& [op, taken] : seconds) fmt::print("{:32} {:9.3f} ms\n", op, taken * 1e3);
}

std::unique_ptr<backend::Backend> make_backend(const std::string& name, int threads) {
  if (name == "cpu") return backend::make_cpu_backend(threads);
  for (const auto products : {backend::Products::f32, backend::Products::f16, backend::Products::bf16})
    if (name == (products == backend::Products::f32 ? "cuda" : fmt::format("cuda-{}", name_of(products))))
      return backend::make_cuda_backend({.device = 0, .products = products});
  throw std::invalid_argument("backend: expected cpu, cuda, cuda-f16 or cuda-bf16, found " + name);
}

/// LLaMA-2-7B with 8 windows of 2048 tokens: forward passes and Hessians of 128 windows take 16 times as
/// long.
void set_shape(const std::string& name, backend::BenchOptions& options) {
  if (name == "smollm2-135m") return;
  if (name != "llama-2-7b")
    throw std::invalid_argument("shape: expected smollm2-135m or llama-2-7b, found " + name);
  options.hidden = 4096;
  options.intermediate = 11008;
  options.heads = options.kv_heads = 32;
  options.head_dim = 128;
  options.sequences = 8;
  options.sequence_length = 2048;
  options.limit_size = 8192;
  options.triad_bytes = 3LL << 30;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "sparsegpt";
  backend::BenchOptions options;
  options.threads = argc > 2 ? std::atoi(argv[2]) : 1;
  options.repetitions = argc > 3 ? std::atoi(argv[3]) : 5;
  try {
    const auto backend = make_backend(argc > 4 ? argv[4] : "cpu", options.threads);
    set_shape(argc > 5 ? argv[5] : "smollm2-135m", options);
    name == "cases" ? print_cases(*backend) : print_table(*backend, name, options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
  return 0;
}
