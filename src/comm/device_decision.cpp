// SPDX-License-Identifier: Apache-2.0
// Whether updates can go from GPU to GPU: a plain function of what the ranks say of themselves.
#include "fedspallm/base/error.hpp"
#include "fedspallm/comm/device.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

namespace fedspallm::comm {

namespace {

std::string place(std::span<const RankDevice> ranks, int rank) {
  return fmt::format("rank {} on {}", rank, ranks[static_cast<std::size_t>(rank)].host);
}

/// What keeps one rank from taking part; "" = nothing.
std::string obstacle(std::span<const RankDevice> ranks, int rank) {
  const RankDevice& own = ranks[static_cast<std::size_t>(rank)];
  if (own.uuid.empty())
    return fmt::format("{}{} computes on a CPU", place(ranks, rank), rank == 0 ? ", the root," : "");
  if (own.nccl == 0) return fmt::format("{} has no NCCL: {}", place(ranks, rank), own.lacks);
  const int first = ranks.front().nccl;
  if (own.nccl != first)
    return fmt::format("{} has NCCL {}, rank 0 has {}", place(ranks, rank), own.nccl, first);
  return "";
}

}  // namespace

bool DeviceDecision::takes_part(int rank) const {
  return std::binary_search(ranks.begin(), ranks.end(), rank);
}

DeviceDecision decide_device(std::span<const RankDevice> ranks) {
  require(!ranks.empty(), "decide_device: at least one rank");
  DeviceDecision decision;
  std::map<std::string, std::vector<int>> sharing;  // by GPU
  for (int rank = 0; rank < static_cast<int>(ranks.size()); ++rank) {
    if (rank != 0 && !ranks[static_cast<std::size_t>(rank)].clients) continue;
    decision.ranks.push_back(rank);
    if (decision.reason.empty()) decision.reason = obstacle(ranks, rank);
    sharing[ranks[static_cast<std::size_t>(rank)].uuid].push_back(rank);
  }
  for (const auto& [uuid, of] : sharing)
    if (decision.reason.empty() && of.size() > 1)  // NCCL wants a GPU of its own for each rank
      decision.reason = fmt::format("ranks {} on {} share {}", fmt::join(of, ", "),
                                    ranks[static_cast<std::size_t>(of.front())].host, uuid);
  decision.possible = decision.reason.empty();
  if (decision.possible)
    decision.reason =
        fmt::format("a GPU for each of {} ranks, NCCL {}", decision.ranks.size(), ranks.front().nccl);
  return decision;
}

}  // namespace fedspallm::comm
