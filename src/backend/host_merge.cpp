// SPDX-License-Identifier: Apache-2.0
// The plain meaning of finishing a merge: means, a full sort of what may go, packing.
#include "fedspallm/base/error.hpp"

#include "checks.hpp"
#include "cuda/elements.hpp"
#include "host_tile.hpp"
#include "host_updates.hpp"
#include <algorithm>
#include <cstring>

namespace fedspallm::backend {

namespace {

using cuda::MergeOrder;

/// A merge with its sums averaged.
struct Averaged {
  std::vector<std::byte> elements;      // dense
  std::vector<std::uint32_t> kept_by;   // per weight
  std::vector<std::int64_t> histogram;  // of the above
  std::vector<bool> stays;
};

float element_at(const std::vector<std::byte>& elements, DType dtype, std::int64_t index) {
  float value = 0;
  widen(dtype, elements.data() + index * static_cast<std::int64_t>(size_of(dtype)), &value, 1);
  return value;
}

void store_mean(DType dtype, double mean, std::byte* element) {
  if (dtype == DType::f32) {
    const auto value = static_cast<float>(mean);
    std::memcpy(element, &value, sizeof value);
  } else {
    const std::uint16_t value = dtype == DType::bf16 ? cuda::mean_to_bf16(mean) : cuda::mean_to_f16(mean);
    std::memcpy(element, &value, sizeof value);
  }
}

Averaged average(const UpdateOps::Finish& how, const HostTile* tiles) {
  const std::int64_t size = how.rows * how.cols;
  const auto bytes = static_cast<std::int64_t>(size_of(how.dtype));
  Averaged result;
  result.elements.resize(static_cast<std::size_t>(size * bytes));
  result.histogram.assign(std::size_t{how.clients} + 1, 0);
  for (std::int64_t index = 0; index < size; ++index) {
    const HostTile& tile = tiles[index / 64];
    const std::uint32_t kept = tile.kept[index % 64];
    require(kept <= how.clients, "finish: no weight was kept by more than all clients");
    const std::uint32_t divisor = how.divide_by_all ? how.clients : std::max(1U, kept);
    store_mean(how.dtype, mean_of(tile.sum[index % 64], divisor, power_of_two(how.q)),
               result.elements.data() + index * bytes);
    result.kept_by.push_back(kept);
    result.stays.push_back(kept > 0);
    ++result.histogram[kept];
  }
  return result;
}

MergeOrder order_of(const UpdateOps::Finish& how, const Averaged& merge, std::int64_t index) {
  const std::uint32_t kept = merge.kept_by[static_cast<std::size_t>(index)];
  if (how.tie == UpdateOps::Tie::index) return {kept, 0};
  const float value = element_at(merge.elements, how.dtype, index);
  if (how.tie == UpdateOps::Tie::magnitude) return {kept, magnitude_key(value)};
  const std::int64_t weight = how.column_weights[static_cast<std::size_t>(index % how.cols)];
  return {kept, score_key(value, static_cast<double>(weight))};
}

/// Of the weights [first, last) the first ones go until `dropped` are gone. Returns how many went.
std::int64_t drop(const UpdateOps::Finish& how, std::int64_t first, std::int64_t last, std::int64_t dropped,
                  Averaged& merge) {
  struct Candidate {
    MergeOrder order;
    std::int64_t index;
    bool operator<(const Candidate& other) const {
      if (order.kept_by != other.order.kept_by) return order.kept_by < other.order.kept_by;
      return order.key != other.order.key ? order.key < other.order.key : index < other.index;
    }
  };
  std::vector<Candidate> candidates;
  for (std::int64_t index = first; index < last; ++index)
    if (merge.stays[static_cast<std::size_t>(index)])
      candidates.push_back({order_of(how, merge, index), index});
  std::sort(candidates.begin(), candidates.end());
  const std::int64_t gone = last - first - std::ssize(candidates);
  const std::int64_t more = std::clamp<std::int64_t>(dropped - gone, 0, std::ssize(candidates));
  for (std::int64_t i = 0; i < more; ++i)
    merge.stays[static_cast<std::size_t>(candidates[static_cast<std::size_t>(i)].index)] = false;
  return more;
}

void expand(const UpdateOps::Finish& how, Averaged& merge, UpdateOps::Finished& result) {
  const std::int64_t size = how.rows * how.cols;
  if (how.target >= 0) {
    result.above_target = merge.histogram[0] > how.target;
    result.expanded = drop(how, 0, size, how.target, merge);
  }
  if (how.group == 0) return;
  for (std::int64_t first = 0; first < size; first += how.group) {
    const auto begin = merge.stays.begin() + first;
    result.above_target |= std::count(begin, begin + how.group, true) < how.keep;
    result.expanded += drop(how, first, first + how.group, how.group - how.keep, merge);
  }
}

}  // namespace

UpdateOps::Finished HostUpdates::finish(const Finish& how, std::byte* tiles) {
  checks::finish_merge(how);
  Averaged merge = average(how, reinterpret_cast<const HostTile*>(tiles));
  Finished result;
  expand(how, merge, result);
  const std::int64_t size = how.rows * how.cols;
  const auto bytes = static_cast<std::int64_t>(size_of(how.dtype));
  result.bits.resize(static_cast<std::size_t>((size + 63) / 64));
  for (std::int64_t index = 0; index < size; ++index) {
    const auto at = static_cast<std::size_t>(index);
    result.votes.push_back(how.clients - merge.kept_by[at]);
    if (!merge.stays[at]) continue;
    result.bits[at / 64] |= std::uint64_t{1} << (at % 64);
    const auto element = merge.elements.begin() + index * bytes;
    result.values.insert(result.values.end(), element, element + bytes);
    result.kept_zeros += element_at(merge.elements, how.dtype, index) == 0 ? 1 : 0;
    ++result.kept;
  }
  result.kept_by = std::move(merge.histogram);
  return result;
}

}  // namespace fedspallm::backend
