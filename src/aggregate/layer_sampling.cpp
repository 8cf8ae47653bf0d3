// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/rules.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/random.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace fedspallm::aggregate {

namespace {

/// Random numbers of one client: number 0 orders the clients, number 1 + b is the tie-breaker of block b.
std::uint64_t draw(std::uint64_t seed, std::uint32_t round, std::size_t client, std::uint64_t index) {
  return random_bits({.seed = seed,
                      .use = RandomUse::layer_sampling,
                      .round = round,
                      .client = static_cast<std::uint32_t>(client),
                      .block = 0},
                     index);
}

}  // namespace

std::vector<std::vector<bool>> draw_blocks(const std::vector<double>& resources, std::int64_t blocks,
                                           std::uint64_t seed, std::uint32_t round) {
  require(blocks >= 1, "draw_blocks: blocks >= 1");
  const auto block_count = static_cast<std::size_t>(blocks);
  std::vector<std::pair<std::uint64_t, std::size_t>> order;
  for (std::size_t client = 0; client < resources.size(); ++client) {
    require(resources[client] > 0 && resources[client] <= 1, "draw_blocks: 0 < resources <= 1");
    order.emplace_back(draw(seed, round, client, 0), client);
  }
  std::sort(order.begin(), order.end());

  std::vector<std::vector<bool>> drawn(resources.size(), std::vector<bool>(block_count, false));
  std::vector<std::int64_t> coverage(block_count, 0);
  for (const auto& [number, client] : order) {
    const double share = std::round(resources[client] * static_cast<double>(blocks));
    const std::int64_t wanted = std::clamp<std::int64_t>(static_cast<std::int64_t>(share), 1, blocks);
    std::vector<std::pair<std::pair<std::int64_t, std::uint64_t>, std::size_t>> candidates;
    for (std::size_t block = 0; block < block_count; ++block)
      candidates.push_back({{coverage[block], draw(seed, round, client, 1 + block)}, block});
    std::sort(candidates.begin(), candidates.end());
    for (std::size_t i = 0; i < static_cast<std::size_t>(wanted); ++i) {
      drawn[client][candidates[i].second] = true;
      ++coverage[candidates[i].second];
    }
  }
  return drawn;
}

}  // namespace fedspallm::aggregate
