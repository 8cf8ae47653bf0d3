// SPDX-License-Identifier: Apache-2.0
#include "level_guess.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

namespace fedspallm::aggregate {

namespace {

constexpr std::int64_t kSmall = 256;  // tiles of a matrix that is looked at in full
constexpr std::int64_t kStride = 16;

/// Another place in each group of kStride tiles, so that the columns of a matrix take part evenly.
std::vector<std::int64_t> sampled_tiles(std::int64_t tiles) {
  const std::int64_t stride = tiles <= kSmall ? 1 : kStride;
  std::vector<std::int64_t> chosen;
  for (std::int64_t group = 0; group * stride < tiles; ++group)
    chosen.push_back(std::min(group * stride + (group * 5) % stride, tiles - 1));
  return chosen;
}

/// Keys of the sample's weights at rule.level.
std::vector<std::uint64_t> sampled_keys(const Kernels& kernels, std::span<const Tile> tiles,
                                        const TieOrder& order, DType dtype, AverageRule rule,
                                        std::span<const std::int64_t> sample) {
  std::array<unsigned char, std::size_t{64} * 4> elements;
  std::array<std::uint32_t, 64> votes;
  TileKeys keys;
  std::vector<std::uint64_t> found;
  for (const std::int64_t tile : sample) {
    std::uint64_t stay = 0, tied = 0;
    (void)kernels.average[static_cast<std::size_t>(dtype)](tiles.data() + tile, 1, rule,
                                                           {elements.data(), votes.data(), &stay, &tied});
    if (tied == 0) continue;
    order.keys_of(elements.data(), tile, keys);
    for (; tied != 0; tied &= tied - 1)
      found.push_back(keys[static_cast<std::size_t>(std::countr_zero(tied))]);
  }
  return found;
}

/// The key of rank `rank` (from 1) of the sample, or the end of all keys on the side where there is none.
std::uint64_t key_of_rank(std::vector<std::uint64_t>& keys, std::int64_t rank) {
  if (rank < 1) return 0;
  if (rank > std::ssize(keys)) return ~std::uint64_t{0} >> 1;
  const auto place = keys.begin() + (rank - 1);
  std::nth_element(keys.begin(), place, keys.end());
  return *place;
}

}  // namespace

LevelGuess guess_level(const Kernels& kernels, std::span<const Tile> tiles, const TieOrder& order,
                       DType dtype, AverageRule rule, double dropped_share) {
  const std::vector<std::int64_t> sample = sampled_tiles(std::ssize(tiles));
  std::vector<std::int64_t> kept(std::size_t{rule.clients} + 1, 0);
  for (const std::int64_t tile : sample)
    kernels.count_kept(tiles.data() + tile, 1, rule.clients, kept.data());
  const auto weights = static_cast<double>(std::ssize(sample) * kTile);
  const Level level = find_level(kept, static_cast<std::int64_t>(dropped_share * weights) - kept[0]);
  LevelGuess guess{level.level, {}};
  if (level.level == 0 || std::ssize(tiles) <= kSmall || order.keys_are_equal()) return guess;
  rule.level = level.level;
  std::vector<std::uint64_t> keys = sampled_keys(kernels, tiles, order, dtype, rule, sample);
  // At least four standard deviations of how many of the sample's weights come before the cut.
  const auto margin = static_cast<std::int64_t>(2 * std::sqrt(weights)) + 8;
  guess.window = {key_of_rank(keys, level.rank - margin), key_of_rank(keys, level.rank + margin)};
  return guess;
}

}  // namespace fedspallm::aggregate
