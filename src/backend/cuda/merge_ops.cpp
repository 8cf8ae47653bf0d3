// SPDX-License-Identifier: Apache-2.0
// Finishing a merge on the device: the host reads the histogram of votes, chooses the level down to which all
// goes, and gets bits, values and votes; in between it waits for nothing.
#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/error.hpp"

#include "../checks.hpp"
#include "kernels.hpp"
#include "ops.hpp"
#include <algorithm>

namespace fedspallm::backend::cuda {

namespace {

template <class Narrow>
void widen_votes(const std::vector<std::byte>& from, std::vector<std::uint32_t>& votes) {
  const auto* narrow = reinterpret_cast<const Narrow*>(from.data());
  std::copy(narrow, narrow + votes.size(), votes.begin());
}

/// One merge on its way, on one stream. The order of the calls is that of finish().
class Finisher {
 public:
  Finisher(cudaStream_t stream, Staging& staging, const UpdateOps::Finish& how, std::byte* tiles,
           std::byte* memory)
      : stream_(stream),
        staging_(staging),
        how_(how),
        tiles_(tiles),
        size_(how.rows * how.cols),
        element_bytes_(static_cast<std::int64_t>(size_of(how.dtype))) {
    const MergeLayout layout = merge_layout(size_, columns_of(how), how.clients, element_bytes_);
    const auto part = [&](std::size_t offset) { return memory + offset; };
    weights_ = {.size = size_,
                .cols = how.cols,
                .type = how.dtype,
                .elements = part(layout.elements),
                .vote_width = merge_vote_width(how.clients),
                .votes = part(layout.votes),
                .clients = how.clients,
                .tie = how.tie,
                .column_weights = reinterpret_cast<const std::int64_t*>(part(layout.column_weights))};
    column_weights_ = part(layout.column_weights);
    bits_ = reinterpret_cast<std::uint32_t*>(part(layout.bits));
    kept_by_ = reinterpret_cast<unsigned long long*>(part(layout.kept_by));
    bins_ = reinterpret_cast<std::uint32_t*>(part(layout.bins));
    counts_ = reinterpret_cast<std::uint32_t*>(part(layout.counts));
    starts_ = reinterpret_cast<unsigned long long*>(part(layout.starts));
    state_ = reinterpret_cast<MergeState*>(part(layout.state));
    facts_ = reinterpret_cast<Facts*>(part(layout.facts));
  }
  static std::int64_t columns_of(const UpdateOps::Finish& how) { return std::ssize(how.column_weights); }

  UpdateOps::Finished run() {
    average_all();
    if (how_.group > 0)
      mark_groups(stream_, weights_, how_.keep, how_.group, bits_, counts_, &facts_->groups);
    else
      mark_to_target();
    pack();
    return std::move(result_);
  }

 private:
  struct Facts {
    UpdateFacts values;
    GroupFacts groups;
  };
  static_assert(sizeof(Facts) == 4 * sizeof(std::uint64_t) &&
                sizeof(MergeState) == 3 * sizeof(std::uint64_t));

  void average_all() {
    check_cuda(cudaMemsetAsync(kept_by_, 0, (std::size_t{how_.clients} + 2) * sizeof *kept_by_, stream_),
               "cudaMemsetAsync");
    check_cuda(cudaMemsetAsync(facts_, 0, sizeof *facts_, stream_), "cudaMemsetAsync");
    staging_.upload(how_.column_weights.data(), how_.column_weights.size_bytes(), column_weights_);
    average(stream_, tiles_, how_.q, how_.divide_by_all ? how_.clients : 0, weights_, kept_by_);
    std::vector<unsigned long long> found(std::size_t{how_.clients} + 2);
    staging_.download(kept_by_, found.size() * sizeof found[0], found.data());
    require(found.back() == 0, "finish: no weight was kept by more than all clients");
    result_.kept_by.assign(found.begin(), found.end() - 1);
  }

  void mark_to_target() {
    const std::int64_t nobody = result_.kept_by[0];
    const std::int64_t more = how_.target < 0 ? 0 : how_.target - nobody;
    result_.above_target = how_.target >= 0 && more < 0;
    result_.expanded = std::max<std::int64_t>(0, more);
    const Level cut = find_level(result_.kept_by, more);
    const std::int64_t tied = cut.level > 0 ? result_.kept_by[cut.level] : 0;
    const bool some_stay = cut.rank < tied;
    if (some_stay) {
      find_cut(stream_, weights_, cut.level, static_cast<unsigned long long>(cut.rank - 1),
               static_cast<unsigned long long>(tied), state_, bins_);
      count_cut(stream_, weights_, cut.level, state_, counts_);
      exclusive_sum(stream_, counts_, pack_units(size_).count(), starts_);
    }
    mark(stream_, weights_, cut.level, some_stay ? state_ : nullptr, starts_, bits_, counts_);
  }

  /// The values go where the sums were: nobody needs these any more.
  void pack() {
    const std::int64_t units = pack_units(size_).count();
    exclusive_sum(stream_, counts_, units, starts_);
    gather_elements(stream_, weights_, bits_, starts_, tiles_);
    unsigned long long kept = 0;
    staging_.download(starts_ + units, sizeof kept, &kept);
    result_.kept = static_cast<std::int64_t>(kept);
    look_at_values(stream_, tiles_, result_.kept, how_.dtype, &facts_->values);
    result_.bits.resize(static_cast<std::size_t>(divide_up(size_, 64)));
    staging_.download(bits_, result_.bits.size() * sizeof(std::uint64_t), result_.bits.data());
    result_.values.resize(static_cast<std::size_t>(result_.kept * element_bytes_));
    staging_.download(tiles_, result_.values.size(), result_.values.data());
    take_votes();
    Facts facts{};
    staging_.download(facts_, sizeof facts, &facts);
    result_.kept_zeros = static_cast<std::int64_t>(facts.values.zeros);
    if (how_.group == 0) return;
    result_.expanded = static_cast<std::int64_t>(facts.groups.expanded);
    result_.above_target = facts.groups.above_target != 0;
  }

  /// They cross the bus as narrow as they are.
  void take_votes() {
    result_.votes.resize(static_cast<std::size_t>(size_));
    if (weights_.vote_width == 4)
      return staging_.download(weights_.votes, result_.votes.size() * 4, result_.votes.data());
    std::vector<std::byte> narrow(result_.votes.size() * static_cast<std::size_t>(weights_.vote_width));
    staging_.download(weights_.votes, narrow.size(), narrow.data());
    if (weights_.vote_width == 1)
      widen_votes<std::uint8_t>(narrow, result_.votes);
    else
      widen_votes<std::uint16_t>(narrow, result_.votes);
  }

  cudaStream_t stream_;
  Staging& staging_;
  const UpdateOps::Finish& how_;
  std::byte* tiles_;
  std::int64_t size_, element_bytes_;
  MergedWeights weights_;
  std::byte* column_weights_;
  std::uint32_t* bits_;
  unsigned long long* kept_by_;
  std::uint32_t* bins_;
  std::uint32_t* counts_;
  unsigned long long* starts_;
  MergeState* state_;
  Facts* facts_;
  UpdateOps::Finished result_;
};

}  // namespace

UpdateOps::Finished CudaUpdates::finish(const Finish& how, std::byte* tiles) {
  checks::finish_merge(how);
  const std::int64_t size = how.rows * how.cols;
  if (size == 0) {
    Finished nothing;
    nothing.kept_by.assign(std::size_t{how.clients} + 1, 0);
    return nothing;
  }
  const std::lock_guard lock(mutex_);
  const cudaStream_t own = stream();
  std::byte* memory = scratch_.bytes(merge_layout(size, Finisher::columns_of(how), how.clients,
                                                  static_cast<std::int64_t>(size_of(how.dtype)))
                                         .bytes);
  // The workspace may just have been allocated, on the other stream.
  check_cuda(cudaStreamSynchronize(allocations_.get()), "cudaStreamSynchronize");
  return Finisher(own, staging_, how, tiles, memory).run();
}

}  // namespace fedspallm::backend::cuda
