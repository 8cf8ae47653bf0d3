// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/bench.hpp"

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/base/thread_pool.hpp"

#include "units.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

namespace fedspallm::aggregate {

namespace {

/// Seconds of the quickest of `repeats` calls.
template <class Body>
double best_of(int repeats, Body body) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

double triad_rate(int repeats, ThreadPool* pool) {
  constexpr std::int64_t kElements = std::int64_t{24} << 20, kBlock = std::int64_t{1} << 16;
  const auto count = static_cast<std::size_t>(kElements);
  std::vector<double> a(count, 0.0), b(count, 1.0), c(count, 2.0);
  const double seconds = best_of(repeats, [&] {
    for_each_unit(
        pool, kElements,
        [&](std::int64_t, std::int64_t first, std::int64_t last, int) {
          for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i)
            a[i] = b[i] + 3.0 * c[i];
        },
        kBlock);
  });
  require(a.back() == 7.0, "triad_rate: the triad was computed");
  return 24.0 * static_cast<double>(kElements) / seconds;
}

wire::PackedMatrix random_update(const MergeShape& shape, const MergeBenchOptions& options,
                                 std::int64_t client) {
  const RandomKey key{.seed = 1, .use = RandomUse::simulation, .client = static_cast<std::uint32_t>(client)};
  wire::PackedMatrix matrix;
  matrix.rows = shape.rows;
  matrix.cols = shape.cols;
  matrix.dtype = options.dtype;
  matrix.bits.assign(static_cast<std::size_t>(wire::mask_words(matrix.size())), 0);
  std::vector<float> values;
  for (std::int64_t i = 0; i < matrix.size(); ++i) {
    const std::uint64_t random = random_bits(key, static_cast<std::uint64_t>(i));
    if (static_cast<double>(random >> 40) < options.sparsity * 0x1p24) continue;
    matrix.bits[static_cast<std::size_t>(i / 64)] |= std::uint64_t{1} << (i % 64);
    values.push_back(static_cast<float>(random & 0xffffff) * 0x1p-24F - 0.5F);
  }
  matrix.kept = std::ssize(values);
  matrix.values.resize(values.size() * size_of(options.dtype));
  narrow(options.dtype, values.data(), matrix.values.data(), values.size());
  return matrix;
}

/// The three steps on one shape.
class MergeTimer {
 public:
  MergeTimer(const MergeShape& shape, const MergeBenchOptions& options, ThreadPool* pool)
      : options_(options),
        pool_(pool),
        merge_(shape.rows, shape.cols, FixedPoint::covering(0.5F, options.clients), {-30}) {
    for (std::int64_t client = 0; client < options.clients; ++client)
      updates_.push_back(random_update(shape, options, client));
    for (const wire::PackedMatrix& update : updates_) pointers_.push_back(&update);
    diagonal_.assign(static_cast<std::size_t>(shape.cols), std::int64_t{1} << 30);
  }

  double add_one_by_one() {
    return timed([&] {
      for (const wire::PackedMatrix& update : updates_) merge_.add(update, pool_);
    });
  }
  double add_at_once() {
    return timed([&] { merge_.add(pointers_, pool_); });
  }
  /// After an add: merges the sums that it left.
  double finish_sums() {
    const MergeRules rules{.sparsity = options_.sparsity};
    std::int64_t kept = 0;
    const double seconds = best_of(options_.repeats, [&] {
      kept += finish(merge_, options_.clients, rules, options_.dtype, diagonal_, pool_).matrix.kept;
    });
    require(kept > 0, "bench_merge: something is kept");
    return seconds;
  }
  [[nodiscard]] double update_bytes() const {
    double bytes = 0;
    for (const wire::PackedMatrix& update : updates_)
      bytes += static_cast<double>(update.values.size() + 8 * update.bits.size());
    return bytes / static_cast<double>(updates_.size());
  }

 private:
  /// Each repeat starts from empty sums: counts must not exceed the number of clients.
  template <class Body>
  double timed(Body body) {
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < options_.repeats; ++i) {
      std::ranges::fill(merge_.tiles(), Tile{});
      best = std::min(best, best_of(1, body));
    }
    return best;
  }

  MergeBenchOptions options_;
  ThreadPool* pool_;
  PartialMerge merge_;
  std::vector<wire::PackedMatrix> updates_;
  std::vector<const wire::PackedMatrix*> pointers_;
  std::vector<std::int64_t> diagonal_;
};

/// Seconds per weight, client (adds) and thread when everything stays in the first-level cache.
struct InCache {
  double add = 0, finish = 0;
};

InCache measure_in_cache(const MergeBenchOptions& options) {
  constexpr std::int64_t kSide = 32, kCalls = 200;  // 1,024 weights: 12 KiB of sums, 1 to 2 KiB of a client
  MergeBenchOptions small = options;
  small.clients = 1;
  small.repeats = 1;
  InCache result{std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  MergeTimer timer({"cache", kSide, kSide}, small, nullptr);
  for (int i = 0; i < kCalls * options.repeats; ++i) {
    result.add = std::min(result.add, timer.add_one_by_one() / (kSide * kSide));
    result.finish = std::min(result.finish, timer.finish_sums() / (kSide * kSide));
  }
  return result;
}

}  // namespace

double MergeTiming::ratio() const {
  return seconds / std::max(triad_seconds, in_cache_seconds);
}

std::vector<MergeShape> bench_shapes() {
  return {{"SmolLM2 q, o", 576, 576},
          {"SmolLM2 k, v", 192, 576},
          {"SmolLM2 gate, up", 1536, 576},
          {"SmolLM2 down", 576, 1536},
          {"LLaMA-2-7B q, k, v, o", 4096, 4096},
          {"LLaMA-2-7B down", 4096, 11008}};
}

MergeBenchReport bench_merge(const std::vector<MergeShape>& shapes, const MergeBenchOptions& options,
                             ThreadPool* pool) {
  require(options.clients >= 1 && options.repeats >= 1, "bench_merge: clients, repeats >= 1");
  MergeBenchReport report;
  report.triad_bytes_per_second = triad_rate(options.repeats, pool);
  report.threads = static_cast<int>(workers_of(pool));
  report.kernels = name_of(select_isa());
  const InCache in_cache = measure_in_cache(options);
  for (const MergeShape& shape : shapes) {
    MergeTimer timer(shape, options, pool);
    const auto weights = static_cast<double>(shape.rows * shape.cols),
               clients = static_cast<double>(options.clients);
    const double update = timer.update_bytes(), tiles = 12 * weights;
    const auto limits = [&](double seconds, double bytes, double cached) {
      return MergeTiming{seconds, bytes, bytes / report.triad_bytes_per_second,
                         cached * weights / static_cast<double>(report.threads)};
    };
    MergeBenchResult result;
    result.shape = shape;
    result.update_bytes = static_cast<std::int64_t>(update);
    result.add_one_by_one =
        limits(timer.add_one_by_one(), clients * (update + 2 * tiles), clients * in_cache.add);
    result.add_at_once = limits(timer.add_at_once(), clients * update + 2 * tiles, clients * in_cache.add);
    result.finish = limits(timer.finish_sums(), tiles + 4 * weights + update, in_cache.finish);
    result.whole =
        limits(result.add_one_by_one.seconds + result.finish.seconds,
               result.add_one_by_one.bytes + result.finish.bytes, clients * in_cache.add + in_cache.finish);
    report.results.push_back(result);
  }
  return report;
}

}  // namespace fedspallm::aggregate
