// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/random.hpp"

#include "fedspallm/base/error.hpp"

namespace fedspallm {

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

std::uint64_t random_bits(const RandomKey& key, std::uint64_t index) {
  // The key's five fields exceed Philox's 64-bit key, so a first pass folds use, round, client and block.
  const auto seed_low = static_cast<std::uint32_t>(key.seed);
  const auto seed_high = static_cast<std::uint32_t>(key.seed >> 32);
  const auto folded =
      philox({static_cast<std::uint32_t>(key.use), key.round, key.client, key.block}, {seed_low, seed_high});
  const auto out = philox(
      {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), folded[2], folded[3]},
      {folded[0], folded[1]});
  return (std::uint64_t{out[1]} << 32) | out[0];
}

std::uint64_t random_below(const RandomKey& key, std::uint64_t index, std::uint64_t bound) {
  require(bound > 0, "random_below: bound > 0");
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<Wide>(random_bits(key, index)) * bound) >> 64);
}

}  // namespace fedspallm
