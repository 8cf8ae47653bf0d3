// SPDX-License-Identifier: Apache-2.0
// What this machine's cores and memory can do at most, measured.
#include "fedspallm/backend/bench.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/rounding.hpp"
#include "fedspallm/base/thread_pool.hpp"

#include "bench_timing.hpp"
#include "cpu/blas.hpp"
#include "cpu/kernels.hpp"
#include <array>
#include <cmath>

namespace fedspallm::backend {

double measure_sgemm(int threads, std::int64_t size) {
  const cpu::Blas blas;
  ThreadPool pool(threads);
  const auto elements = static_cast<std::size_t>(size * size);
  std::vector<std::vector<float>> operands(static_cast<std::size_t>(3 * threads),
                                           std::vector<float>(elements, 0.5F));
  const double seconds = best_seconds([&] {
    pool.run(threads, [&](std::int64_t unit, int) {
      auto* own = &operands[static_cast<std::size_t>(3 * unit)];
      blas.single_threaded();
      blas.gemm(false, false, size, size, size, 1.0F, own[0].data(), size, own[1].data(), size, 0.0F,
                own[2].data(), size);
    });
  });
  return 2.0 * std::pow(static_cast<double>(size), 3) * threads / seconds;
}

double measure_triad(int threads, std::int64_t bytes) {
  const std::int64_t count = std::max<std::int64_t>(threads, bytes / 12);
  std::vector<float> a(static_cast<std::size_t>(count), 0.0F);
  const std::vector<float> b(a.size(), 1.0F);
  const std::vector<float> c(a.size(), 2.0F);
  ThreadPool pool(threads);
  const std::int64_t piece = divide_up(count, threads);
  const double seconds = best_seconds([&] {
    pool.run(threads, [&](std::int64_t unit, int) {
      const auto last = static_cast<std::size_t>(std::min(count, (unit + 1) * piece));
      for (auto i = static_cast<std::size_t>(unit * piece); i < last; ++i) a[i] = b[i] + 3.0F * c[i];
    });
  });
  return 12.0 * static_cast<double>(count) / seconds;
}

double measure_bf16_products([[maybe_unused]] int threads) {
  require(lacks_for(Products::bf16, Isa::avx512).empty(), "measure_bf16_products: a CPU that has them");
#if defined(__x86_64__)
  const cpu::LinearKernels kernels = cpu::avx512bf16::product_kernels().linear;
  constexpr std::int64_t rows = 16, depth = 96, columns = 48, repeats = 30000;  // 27 KiB: they stay in L1
  struct Operands {
    alignas(64) std::array<float, depth * columns> right;
    alignas(64) std::array<float, rows * depth> left;
    alignas(64) std::array<float, rows * columns> result;
  };
  std::vector<Operands> operands(static_cast<std::size_t>(threads));  // all zeros
  ThreadPool pool(threads);
  const double seconds = best_seconds([&] {
    pool.run(threads, [&](std::int64_t unit, int) {
      Operands& own = operands[static_cast<std::size_t>(unit)];
      for (std::int64_t i = 0; i < repeats; ++i)
        kernels.multiply_packed({own.left.data(), depth, rows, depth, own.right.data(),
                                 depth * kernels.panel_width, columns, nullptr, cpu::ProductMode::assign,
                                 own.result.data(), columns});
    });
  });
  return 2.0 * 2.0 * static_cast<double>(rows * depth * columns * repeats) * threads / seconds;
#else
  throw LogicError("measure_bf16_products: only x86 has them");
#endif
}

}  // namespace fedspallm::backend
