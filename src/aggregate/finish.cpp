// SPDX-License-Identifier: Apache-2.0
// From sums to the merged matrix: averages, votes, mask expansion, packing.
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"

#include "expansion.hpp"
#include "kernels.hpp"
#include "units.hpp"
#include <cmath>
#include <memory>

namespace fedspallm::aggregate {

namespace {

/// The steps of finish(), in order.
class Finisher {
 public:
  Finisher(const PartialMerge& merge, std::int64_t clients, const MergeRules& rules, DType dtype,
           ThreadPool* pool)
      : merge_(merge),
        clients_(clients),
        rules_(rules),
        pool_(pool),
        kernels_(kernels_for(select_isa())),
        tiles_(std::ssize(merge.tiles())),
        size_(merge.rows() * merge.cols()) {
    result_.matrix.rows = merge.rows();
    result_.matrix.cols = merge.cols();
    result_.matrix.dtype = dtype;
  }

  MergedMatrix run(std::span<const std::int64_t> diagonal_sums) {
    average();
    count_votes();
    result_.target = -1;
    if (rules_.expand) expand(diagonal_sums);
    pack();
    result_.votes.resize(static_cast<std::size_t>(size_));  // the padding of the last tile goes
    return std::move(result_);
  }

 private:
  [[nodiscard]] bool grouped() const { return rules_.group > 0; }

  void average() {
    const std::size_t element_bytes = size_of(result_.matrix.dtype),
                      padded = static_cast<std::size_t>(tiles_) * 64;
    elements_ = std::make_unique_for_overwrite<std::byte[]>(padded * element_bytes);
    result_.votes.resize(padded);
    result_.matrix.bits.resize(static_cast<std::size_t>(tiles_));
    const AverageRule rule{
        .q = merge_.scale().q,
        .clients = static_cast<std::uint32_t>(clients_),
        .divisor = rules_.averaging == Averaging::mean ? static_cast<std::uint32_t>(clients_) : 0};
    std::vector<std::uint32_t> most(static_cast<std::size_t>(units_of(tiles_)), 0);
    for_each_unit(pool_, tiles_, [&](std::int64_t unit, std::int64_t first, std::int64_t last, int) {
      const auto start = static_cast<std::size_t>(first) * 64;
      most[static_cast<std::size_t>(unit)] = kernels_.average[static_cast<std::size_t>(result_.matrix.dtype)](
          merge_.tiles().data() + first, last - first, rule,
          reinterpret_cast<unsigned char*>(elements_.get() + start * element_bytes),
          result_.votes.data() + start, result_.matrix.bits.data() + first);
    });
    for (const std::uint32_t kept : most)
      require(kept <= static_cast<std::uint32_t>(clients_),
              "finish: no weight was kept by more than all clients");
  }

  void count_votes() {
    const auto bins = static_cast<std::size_t>(clients_) + 1;
    std::vector<std::vector<std::int64_t>> parts(workers_of(pool_), std::vector<std::int64_t>(bins, 0));
    for_each_unit(pool_, tiles_, [&](std::int64_t, std::int64_t first, std::int64_t last, int worker) {
      std::vector<std::int64_t>& histogram = parts[static_cast<std::size_t>(worker)];
      const std::int64_t end = std::min(size_, last * 64);
      for (std::int64_t i = first * 64; i < end; ++i) ++histogram[result_.votes[static_cast<std::size_t>(i)]];
    });
    result_.histogram.assign(bins, 0);
    for (const auto& part : parts)
      for (std::size_t bin = 0; bin < bins; ++bin) result_.histogram[bin] += part[bin];
    result_.common_zeros = result_.histogram.back();
  }

  void expand(std::span<const std::int64_t> diagonal_sums) {
    std::vector<double> column_weights(diagonal_sums.size());
    for (std::size_t column = 0; column < column_weights.size(); ++column)
      column_weights[column] = static_cast<double>(diagonal_sums[column]);
    const DenseMerge dense{.rows = merge_.rows(),
                           .cols = merge_.cols(),
                           .clients = static_cast<std::uint32_t>(clients_),
                           .dtype = result_.matrix.dtype,
                           .elements = elements_.get(),
                           .votes = result_.votes,
                           .words = result_.matrix.bits,
                           .tie = rules_.tie,
                           .column_weights = column_weights,
                           .pool = pool_};
    if (grouped()) {
      const GroupExpansion done = expand_groups(dense, rules_.keep, rules_.group);
      result_.target = size_ / rules_.group * (rules_.group - rules_.keep);
      result_.expanded = done.expanded;
      result_.above_target = done.above_target;
      return;
    }
    result_.target = exact_count(rules_.sparsity, size_);
    result_.above_target = result_.common_zeros > result_.target;
    if (result_.common_zeros >= result_.target) return;
    result_.expanded = result_.target - result_.common_zeros;
    expand_mask(dense, result_.histogram, result_.expanded);
  }

  void pack() {
    wire::PackedMatrix& matrix = result_.matrix;
    const auto bytes = static_cast<std::int64_t>(size_of(matrix.dtype));
    std::vector<std::int64_t> offsets{0};
    for (std::int64_t first = 0; first < tiles_; first += kUnit) {
      const auto count = static_cast<std::size_t>(std::min(kUnit, tiles_ - first));
      offsets.push_back(
          offsets.back() +
          wire::count_mask_bits(std::span(matrix.bits).subspan(static_cast<std::size_t>(first), count)));
    }
    matrix.kept = offsets.back();
    matrix.values.resize(static_cast<std::size_t>(matrix.kept * bytes));
    auto* packed = reinterpret_cast<unsigned char*>(matrix.values.data());
    const auto* elements = reinterpret_cast<const unsigned char*>(elements_.get());
    const auto compress = bytes == 4 ? kernels_.compress4 : kernels_.compress2;
    for_each_unit(pool_, tiles_, [&](std::int64_t unit, std::int64_t first, std::int64_t last, int) {
      const std::int64_t begin = offsets[static_cast<std::size_t>(unit)],
                         end = offsets[static_cast<std::size_t>(unit) + 1];
      compress(matrix.bits.data() + first, last - first, elements + first * 64 * bytes,
               packed + begin * bytes, end - begin);
    });
    result_.kept_zeros = wire::count_kept_zeros(matrix);
  }

  const PartialMerge& merge_;
  std::int64_t clients_;
  const MergeRules& rules_;
  ThreadPool* pool_;
  const Kernels& kernels_;
  std::int64_t tiles_, size_;
  std::unique_ptr<std::byte[]> elements_;
  MergedMatrix result_;
};

void require_rules(const PartialMerge& merge, std::int64_t clients, const MergeRules& rules,
                   std::span<const std::int64_t> diagonal_sums) {
  require(clients >= 1 && clients < (std::int64_t{1} << 24), "finish: 1 <= clients < 2^24");
  require(rules.group == 0 ? rules.keep == 0 : (rules.keep > 0 && rules.keep <= rules.group),
          "finish: N:M with 0 < N <= M, or neither");
  require(rules.group == 0 || merge.cols() % rules.group == 0, "finish: cols is a multiple of M");
  require(rules.sparsity >= 0 && rules.sparsity <= 1, "finish: 0 <= sparsity <= 1");
  if (!rules.expand || rules.tie != TieRule::score) return;
  require(std::ssize(diagonal_sums) == merge.cols(), "finish: the score needs one sum of diag(H) per column");
  for (const std::int64_t sum : diagonal_sums) require(sum >= 0, "finish: sums of diag(H) are >= 0");
}

}  // namespace

MergedMatrix finish(const PartialMerge& merge, std::int64_t clients, const MergeRules& rules, DType dtype,
                    std::span<const std::int64_t> diagonal_sums, ThreadPool* pool) {
  require_rules(merge, clients, rules, diagonal_sums);
  return Finisher(merge, clients, rules, dtype, pool).run(diagonal_sums);
}

}  // namespace fedspallm::aggregate
