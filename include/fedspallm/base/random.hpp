// SPDX-License-Identifier: Apache-2.0
// Purpose: counter-based random numbers (Philox 4x32-10, Salmon et al. 2011), keyed by what they are for.
// The same key gives the same numbers on any rank, thread or resume; there is no state to save.
// Non-goals: cryptography, distributions other than uniform bits.
#pragma once

#include <array>
#include <cstdint>

namespace fedspallm {

/// What a stream of numbers is for; part of the key, so that two uses never share numbers.
enum class RandomUse : std::uint32_t {
  calibration_window = 1,
  layer_sampling = 2,
  random_pruning = 3,
  simulation = 4
};

struct RandomKey {
  std::uint64_t seed = 0;
  RandomUse use = RandomUse::calibration_window;
  std::uint32_t round = 0;
  std::uint32_t client = 0;
  std::uint32_t block = 0;  // or any further index that the use names
};

/// Four 32-bit numbers of Philox 4x32-10.
[[nodiscard]] std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key);

/// 64 uniform bits number `index` of the stream `key`.
[[nodiscard]] std::uint64_t random_bits(const RandomKey& key, std::uint64_t index);
/// Uniform integer in [0, bound), without modulo bias (multiply-shift on 64 bits; bias < 2^-64 * bound). @pre
/// bound > 0
[[nodiscard]] std::uint64_t random_below(const RandomKey& key, std::uint64_t index, std::uint64_t bound);

}  // namespace fedspallm
