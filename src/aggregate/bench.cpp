// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/bench.hpp"

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/base/thread_pool.hpp"

#include "../wire/kernels.hpp"
#include "kernels.hpp"
#include "units.hpp"
#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <numeric>

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

/// Over arrays far larger than the caches, in blocks of which each counts with its quickest repeat: then a
/// moment of other work on the machine does not make the limit look lower than it is.
double triad_rate(int repeats, ThreadPool* pool) {
  constexpr std::int64_t kElements = std::int64_t{24} << 20, kBlock = std::int64_t{3} << 20,
                         kUnitElements = 1 << 16;
  std::vector<double> a(static_cast<std::size_t>(kElements), 0.0), b(a.size(), 1.0), c(a.size(), 2.0);
  std::vector<double> seconds(static_cast<std::size_t>(kElements / kBlock),
                              std::numeric_limits<double>::infinity());
  for (int repeat = 0; repeat < repeats; ++repeat)
    for (std::size_t block = 0; block < seconds.size(); ++block) {
      const std::int64_t start = static_cast<std::int64_t>(block) * kBlock;
      const double taken = best_of(1, [&] {
        for_each_unit(
            pool, kBlock,
            [&](std::int64_t, std::int64_t first, std::int64_t last, int) {
              for (auto i = static_cast<std::size_t>(start + first);
                   i < static_cast<std::size_t>(start + last); ++i)
                a[i] = b[i] + 3.0 * c[i];
            },
            kUnitElements);
      });
      seconds[block] = std::min(seconds[block], taken);
    }
  require(a.front() == 7.0 && a.back() == 7.0, "triad_rate: the triad was computed");
  return 24.0 * static_cast<double>(kElements) / std::accumulate(seconds.begin(), seconds.end(), 0.0);
}

/// 64 bits of which each is set with probability density, to 1/256: the digits of density choose between or
/// and and.
std::uint64_t random_word(const RandomKey& key, std::uint64_t index, double density) {
  const auto digits = static_cast<unsigned>(std::min(density * 256, 255.0));
  std::uint64_t word = 0;
  for (unsigned bit = 0; bit < 8; ++bit) {
    const std::uint64_t random = random_bits(key, 8 * index + bit);
    word = ((digits >> bit) & 1U) != 0 ? word | random : word & random;
  }
  return word;
}

/// A random mask; values from a short table over and over, since their time does not depend on what they are.
wire::PackedMatrix random_update(const MergeShape& shape, const MergeBenchOptions& options,
                                 std::int64_t client) {
  const RandomKey key{.seed = 1, .use = RandomUse::simulation, .client = static_cast<std::uint32_t>(client)};
  std::array<float, 4093> numbers;
  for (std::size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = static_cast<float>(random_bits(key, ~std::uint64_t{i}) >> 40) * 0x1p-24F - 0.5F;
  std::array<std::byte, numbers.size() * sizeof(float)> table;
  narrow(options.dtype, numbers.data(), table.data(), numbers.size());

  wire::PackedMatrix matrix;
  matrix.rows = shape.rows;
  matrix.cols = shape.cols;
  matrix.dtype = options.dtype;
  matrix.bits.resize(static_cast<std::size_t>(wire::mask_words(matrix.size())));
  for (std::size_t i = 0; i < matrix.bits.size(); ++i)
    matrix.bits[i] = random_word(key, i, 1 - options.sparsity);
  if (matrix.size() % 64 != 0) matrix.bits.back() &= (std::uint64_t{1} << (matrix.size() % 64)) - 1;
  matrix.kept = wire::count_mask_bits(matrix.bits);
  matrix.values.resize(static_cast<std::size_t>(matrix.kept) * size_of(options.dtype));
  const std::size_t period = numbers.size() * size_of(options.dtype);
  for (std::size_t at = 0; at < matrix.values.size(); at += period)
    std::copy_n(table.begin(), std::min(period, matrix.values.size() - at),
                matrix.values.begin() + static_cast<std::ptrdiff_t>(at));
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

/// Seconds per weight (adds: and client) of the kernels alone, on a panel that stays in the first-level
/// cache.
class InCache {
 public:
  explicit InCache(const MergeBenchOptions& options)
      : dtype_(static_cast<std::size_t>(options.dtype)),
        repeats_(20 * options.repeats),
        kernels_(kernels_for(select_isa())),
        values_(wire::kernels_for(select_isa())),
        update_(random_update({"panel", kTiles, kTile}, options, 0)) {}

  double add() {
    const int q = FixedPoint::covering(0.5F, 1).q;
    return per_weight([&] {
      (void)kernels_.add_packed[dtype_](update_.bits.data(), kTiles, bytes(), update_.kept, q, tiles_.data());
    });
  }

  /// What finish() does with each weight whose votes are tied: averages, counts, keys and comparisons in both
  /// of its passes, packing.
  double finish() {
    const AverageRule rule{.q = -56, .clients = 8, .divisor = 0, .level = 4};
    const std::vector<double> weights(kTile, 1.0);
    std::array<unsigned char, kTiles * kTile * 4> elements;
    std::array<std::uint32_t, kTiles * kTile> votes;
    std::array<std::uint64_t, kTiles> stay, tied;
    std::array<std::uint64_t, kTile> keys;
    std::array<std::int64_t, 9> histogram{};
    fill_tiles();
    const auto compare_all = [&] {
      for (std::int64_t tile = 0; tile < kTiles; ++tile) {
        const auto* source = elements.data() + tile * kTile * element_bytes();
        kernels_.score_keys[dtype_](source, weights.data(), keys.data());
        (void)kernels_.compare_keys(keys.data(), 1, std::uint64_t{1} << 60);
      }
    };
    return per_weight([&] {
      (void)kernels_.average[dtype_](tiles_.data(), kTiles, rule,
                                     {elements.data(), votes.data(), stay.data(), tied.data()});
      kernels_.count_kept(tiles_.data(), kTiles, rule.clients, histogram.data());
      compare_all();
      compare_all();
      const auto compress = element_bytes() == 4 ? kernels_.compress4 : kernels_.compress2;
      const std::int64_t kept = compress(update_.bits.data(), kTiles, elements.data());
      (void)values_.scan_values[dtype_](elements.data(), kept);
    });
  }

 private:
  static constexpr std::int64_t kTiles = 16;  // 12 KiB of sums
  static constexpr int kCalls = 100;

  [[nodiscard]] const unsigned char* bytes() const {
    return reinterpret_cast<const unsigned char*>(update_.values.data());
  }
  [[nodiscard]] std::int64_t element_bytes() const {
    return static_cast<std::int64_t>(size_of(update_.dtype));
  }
  void fill_tiles() {
    const RandomKey key{.seed = 2, .use = RandomUse::simulation};
    for (std::size_t i = 0; i < kTiles * kTile; ++i) {
      tiles_[i / kTile].sum[i % kTile] = static_cast<std::int64_t>(random_below(key, 2 * i, 1U << 30)) << 20;
      tiles_[i / kTile].kept[i % kTile] = static_cast<std::uint32_t>(random_below(key, 2 * i + 1, 9));
    }
  }
  template <class Body>
  double per_weight(Body body) const {
    const double seconds = best_of(repeats_, [&] {
      for (int call = 0; call < kCalls; ++call) body();
    });
    return seconds / (kCalls * kTiles * kTile);
  }

  std::size_t dtype_;
  int repeats_;
  const Kernels& kernels_;
  const wire::Kernels& values_;
  wire::PackedMatrix update_;
  std::vector<Tile> tiles_ = std::vector<Tile>(kTiles);
};

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
  InCache in_cache(options);
  const double cached_add = in_cache.add(), cached_finish = in_cache.finish();
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
        limits(timer.add_one_by_one(), clients * (update + 2 * tiles), clients * cached_add);
    result.add_at_once = limits(timer.add_at_once(), clients * update + 2 * tiles, clients * cached_add);
    result.finish = limits(timer.finish_sums(), tiles + 4 * weights + update, cached_finish);
    result.whole =
        limits(result.add_one_by_one.seconds + result.finish.seconds,
               result.add_one_by_one.bytes + result.finish.bytes, clients * cached_add + cached_finish);
    report.results.push_back(result);
  }
  return report;
}

}  // namespace fedspallm::aggregate
