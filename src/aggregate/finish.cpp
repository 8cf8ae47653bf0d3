// SPDX-License-Identifier: Apache-2.0
// From sums to the merged matrix in two passes over memory: averages, votes and what is tied; then, once the
// last tied weight to go is known, masks and packing.
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/aggregate/slices.hpp"
#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"

#include "../wire/kernels.hpp"
#include "group_expansion.hpp"
#include "huge_pages.hpp"
#include "kernels.hpp"
#include "level_guess.hpp"
#include "slice_selector.hpp"
#include "tie_order.hpp"
#include "tie_selector.hpp"
#include "units.hpp"
#include <algorithm>
#include <array>
#include <memory>

namespace fedspallm::aggregate {

namespace {

constexpr std::int64_t kPanel = 16;  // tiles whose sums, elements and keys stay in the first-level cache

template <class Element>
void reserve(std::vector<Element>& vector, std::int64_t count) {
  vector.reserve(static_cast<std::size_t>(count));
  ask_for_huge_pages(vector.data(), static_cast<std::size_t>(count) * sizeof(Element));
}

/// The steps of finish() and finish_slice(), in order.
class Finisher {
 public:
  /// @param sum  null: `merge` is the whole matrix
  Finisher(const PartialMerge& merge, const SlicePlace& place, std::int64_t clients, const MergeRules& rules,
           DType dtype, std::span<const std::int64_t> diagonal_sums, const SumOverOwners* sum,
           ThreadPool* pool)
      : merge_(merge),
        place_(place),
        sum_(sum),
        clients_(static_cast<std::uint32_t>(clients)),
        rules_(rules),
        pool_(pool),
        kernels_(kernels_for(select_isa())),
        tiles_(std::ssize(merge.tiles())),
        size_(merge.rows() * merge.cols()),
        whole_size_(place.rows * place.cols),
        element_bytes_(static_cast<std::int64_t>(size_of(dtype))),
        elements_(std::make_unique_for_overwrite<std::byte[]>(
            static_cast<std::size_t>(tiles_ * 64 * element_bytes_))),
        order_(kernels_, rules.tie, dtype, elements_.get(), place.cols, diagonal_sums,
               slice_of(place.rows, place.cols, rules.group, place.owner, place.owners).begin) {
    ask_for_huge_pages(elements_.get(), static_cast<std::size_t>(tiles_ * 64 * element_bytes_));
    result_.matrix.rows = merge.rows();
    result_.matrix.cols = merge.cols();
    result_.matrix.dtype = dtype;
    result_.matrix.bits.resize(static_cast<std::size_t>(tiles_));
    tied_.resize(static_cast<std::size_t>(tiles_));
  }

  MergedMatrix run() {
    const bool by_level = rules_.expand && rules_.group == 0;
    result_.target = -1;
    if (by_level) {
      result_.target = exact_count(rules_.sparsity, whole_size_);
      const LevelGuess guess = guess_level(kernels_, merge_.tiles(), order_, result_.matrix.dtype,
                                           average_rule(), rules_.sparsity);
      level_.level = guess.level;
      if (sum_ == nullptr) window_ = guess.window;  // owners look for the cut together
    }
    kept_ = average();
    const std::int64_t own_zeros = kept_[0];
    result_.histogram.assign(kept_.rbegin(), kept_.rend());
    if (sum_ != nullptr && by_level) (*sum_)(kept_);
    result_.common_zeros = kept_[0];
    if (by_level) expand();
    if (rules_.expand && rules_.group > 0) expand_in_groups();
    pack();
    if (sum_ != nullptr && by_level) {  // the level was all owners', counts are the slice's
      result_.common_zeros = own_zeros;
      result_.expanded = size_ - result_.matrix.kept - own_zeros;
    }
    return std::move(result_);
  }

 private:
  /// What a worker counts while it averages.
  struct Counts {
    std::vector<std::int64_t> kept;
    TieGatherer ties;
    std::uint32_t most = 0;
  };

  [[nodiscard]] AverageRule average_rule() const {
    return {.q = merge_.scale().q,
            .clients = clients_,
            .divisor = rules_.averaging == Averaging::mean ? clients_ : 0,
            .level = level_.level};
  }

  /// First pass: dense elements, votes; which weights stay and which are tied, by level_. Returns how many
  /// weights of the slice were kept by each number of clients.
  [[nodiscard]] std::vector<std::int64_t> average() {
    const auto limit = static_cast<std::size_t>(size_ / 16);  // of what is gathered: 16 bytes each
    std::vector<Counts> parts(workers_of(pool_), {std::vector<std::int64_t>(std::size_t{clients_} + 1, 0),
                                                  TieGatherer(window_, limit), 0});
    result_.votes.clear();
    reserve(result_.votes, size_);
    if (parts.size() > 1) result_.votes.resize(static_cast<std::size_t>(size_));
    for_each_unit(pool_, tiles_, [&](std::int64_t, std::int64_t first, std::int64_t last, int worker) {
      for (std::int64_t tile = first; tile < last; tile += kPanel)
        average_panel(tile, std::min(kPanel, last - tile), parts[static_cast<std::size_t>(worker)]);
    });
    for (std::size_t part = 1; part < parts.size(); ++part) {
      for (std::size_t k = 0; k < parts[0].kept.size(); ++k) parts[0].kept[k] += parts[part].kept[k];
      parts[0].ties.add(parts[part].ties);
      parts[0].most = std::max(parts[0].most, parts[part].most);
    }
    require(parts[0].most <= clients_, "finish: no weight was kept by more than all clients");
    ties_ = std::move(parts[0].ties);
    parts[0].kept[0] -= tiles_ * 64 - size_;  // padding of the last tile
    return std::move(parts[0].kept);
  }

  void average_panel(std::int64_t tile, std::int64_t count, Counts& counts) {
    std::array<std::uint32_t, kPanel * 64> votes;
    const Tile* source = merge_.tiles().data() + tile;
    const Averages out{reinterpret_cast<unsigned char*>(elements_.get()) + tile * 64 * element_bytes_,
                       votes.data(), result_.matrix.bits.data() + tile, tied_.data() + tile};
    const auto dtype = static_cast<std::size_t>(result_.matrix.dtype);
    counts.most = std::max(counts.most, kernels_.average[dtype](source, count, average_rule(), out));
    kernels_.count_kept(source, count, clients_, counts.kept.data());
    store_votes(tile * 64,
                std::span(votes).first(static_cast<std::size_t>(std::min(count * 64, size_ - tile * 64))));
    for (std::int64_t i = tile; i < tile + count; ++i)
      counts.ties.add(order_, i, tied_[static_cast<std::size_t>(i)]);
  }

  /// Alone, votes are appended: nothing is written twice. With threads the vector is there already.
  void store_votes(std::int64_t start, std::span<const std::uint32_t> votes) {
    if (workers_of(pool_) > 1) {
      std::copy(votes.begin(), votes.end(), result_.votes.begin() + start);
    } else {
      result_.votes.insert(result_.votes.end(), votes.begin(), votes.end());
    }
  }

  void expand() {
    const Level exact = find_level(kept_, result_.target - result_.common_zeros);
    if (exact.level != level_.level) {  // the guess was wrong: once more, now knowing it
      level_ = exact;
      window_ = {};
      (void)average();
    }
    level_ = exact;
    result_.above_target = result_.common_zeros > result_.target;
    result_.expanded = std::max<std::int64_t>(0, result_.target - result_.common_zeros);
    some_stay_ = exact.level > 0 && exact.rank < kept_[exact.level];
    if (sum_ != nullptr) {
      cut_ = SliceSelector(order_, tied_, place_, *sum_).select(some_stay_ ? exact.rank : 0);
    } else if (some_stay_ && !ties_.find(exact.rank, cut_)) {
      cut_ = select_tied(order_, tied_, exact.rank, pool_);
    }
  }

  void expand_in_groups() {
    const GroupExpansion done =
        expand_groups(merge_.tiles(), order_, size_, rules_.keep, rules_.group, result_.matrix.bits, pool_);
    result_.target = whole_size_ / rules_.group * (rules_.group - rules_.keep);
    result_.expanded = done.expanded;
    result_.above_target = done.above_target;
  }

  /// Second pass: each unit settles its ties and moves its elements together at its own start; then they are
  /// joined.
  void pack() {
    wire::PackedMatrix& matrix = result_.matrix;
    const bool appending = workers_of(pool_) == 1;
    const auto units = static_cast<std::size_t>(units_of(tiles_));
    std::vector<std::int64_t> kept(units, 0), zeros(units, 0);
    reserve(matrix.values, expected_kept() * element_bytes_);
    const auto scan = wire::kernels_for(select_isa()).scan_values[static_cast<std::size_t>(matrix.dtype)];
    for_each_unit(pool_, tiles_, [&](std::int64_t unit, std::int64_t first, std::int64_t last, int) {
      const auto index = static_cast<std::size_t>(unit);
      kept[index] = pack_unit(first, last);
      zeros[index] = scan(reinterpret_cast<const unsigned char*>(packed_at(first)), kept[index]).zeros;
      if (appending)
        matrix.values.insert(matrix.values.end(), packed_at(first),
                             packed_at(first) + kept[index] * element_bytes_);
    });
    std::vector<std::int64_t> start(units, 0);
    for (std::size_t unit = 0; unit < units; ++unit) {
      start[unit] = matrix.kept;
      matrix.kept += kept[unit];
      result_.kept_zeros += zeros[unit];
    }
    if (appending) return;
    matrix.values.resize(static_cast<std::size_t>(matrix.kept * element_bytes_));
    for_each_unit(pool_, tiles_, [&](std::int64_t unit, std::int64_t first, std::int64_t, int) {
      const auto index = static_cast<std::size_t>(unit);
      std::copy(packed_at(first), packed_at(first) + kept[index] * element_bytes_,
                matrix.values.begin() + start[index] * element_bytes_);
    });
  }

  std::int64_t pack_unit(std::int64_t first, std::int64_t last) {
    std::uint64_t* words = result_.matrix.bits.data();
    // Ties need no looking at where all of them go.
    if (some_stay_) {
      TileKeys keys;
      for (std::int64_t tile = first; tile < last; ++tile) {
        const std::uint64_t tied = tied_[static_cast<std::size_t>(tile)];
        if (tied != 0) words[tile] |= tied & ~gone_of(order_, tile, tied, cut_, keys);
      }
    }
    const auto compress = element_bytes_ == 4 ? kernels_.compress4 : kernels_.compress2;
    return compress(words + first, last - first, reinterpret_cast<unsigned char*>(packed_at(first)));
  }

  [[nodiscard]] std::byte* packed_at(std::int64_t tile) const {
    return elements_.get() + tile * 64 * element_bytes_;
  }
  /// Room for them: exact, but for slices that a common level cuts, which differ a little.
  [[nodiscard]] std::int64_t expected_kept() const {
    if (sum_ == nullptr || rules_.group > 0 || !rules_.expand)
      return size_ - result_.common_zeros - result_.expanded;
    const auto share = static_cast<double>(result_.common_zeros + result_.expanded) /
                       static_cast<double>(std::max<std::int64_t>(1, whole_size_));
    return static_cast<std::int64_t>(static_cast<double>(size_) * std::clamp(1.02 - share, 0.0, 1.0));
  }

  const PartialMerge& merge_;
  SlicePlace place_;
  const SumOverOwners* sum_;
  std::uint32_t clients_;
  const MergeRules& rules_;
  ThreadPool* pool_;
  const Kernels& kernels_;
  std::int64_t tiles_, size_, whole_size_, element_bytes_;
  std::unique_ptr<std::byte[]> elements_;  // dense, whole tiles
  TieOrder order_;
  std::vector<std::uint64_t> tied_;
  std::vector<std::int64_t> kept_;  // histogram by number of clients that kept a weight
  KeyWindow window_;
  TieGatherer ties_;
  Level level_;
  Cut cut_;
  bool some_stay_ = false;  // of the tied weights
  MergedMatrix result_;
};

void require_rules(std::int64_t cols, std::int64_t clients, const MergeRules& rules,
                   std::span<const std::int64_t> diagonal_sums) {
  require(clients >= 1 && clients < (std::int64_t{1} << 24), "finish: 1 <= clients < 2^24");
  require(rules.group == 0 ? rules.keep == 0 : (rules.keep > 0 && rules.keep <= rules.group),
          "finish: N:M with 0 < N <= M, or neither");
  require(rules.group == 0 || cols % rules.group == 0, "finish: cols is a multiple of M");
  require(rules.sparsity >= 0 && rules.sparsity <= 1, "finish: 0 <= sparsity <= 1");
  if (!rules.expand || rules.tie != TieRule::score) return;
  require(std::ssize(diagonal_sums) == cols, "finish: the score needs one sum of diag(H) per column");
  for (const std::int64_t sum : diagonal_sums) require(sum >= 0, "finish: sums of diag(H) are >= 0");
}

}  // namespace

MergedMatrix finish(const PartialMerge& merge, std::int64_t clients, const MergeRules& rules, DType dtype,
                    std::span<const std::int64_t> diagonal_sums, ThreadPool* pool) {
  require_rules(merge.cols(), clients, rules, diagonal_sums);
  const SlicePlace whole{.rows = merge.rows(), .cols = merge.cols()};
  return Finisher(merge, whole, clients, rules, dtype, diagonal_sums, nullptr, pool).run();
}

MergedMatrix finish_slice(const PartialMerge& slice, const SlicePlace& place, std::int64_t clients,
                          const MergeRules& rules, DType dtype, std::span<const std::int64_t> diagonal_sums,
                          const SumOverOwners& sum) {
  require_rules(place.cols, clients, rules, diagonal_sums);
  const Slice own = slice_of(place.rows, place.cols, rules.group, place.owner, place.owners);
  require(slice.rows() == own.size() && slice.cols() == 1, "finish_slice: the sums of the owner's slice");
  require(static_cast<bool>(sum), "finish_slice: a way to sum over owners");
  return Finisher(slice, place, clients, rules, dtype, diagonal_sums, &sum, nullptr).run();
}

}  // namespace fedspallm::aggregate
