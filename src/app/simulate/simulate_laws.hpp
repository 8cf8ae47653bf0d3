// SPDX-License-Identifier: Apache-2.0
// Purpose: what virtual clients are like: how fast, how able, whether they leave. Each number is a function
// of (seed, round, client, block) by counter-based random numbers, so that any rank can ask for any of them
// and nothing is stored. Non-goal: what follows from it in time (simulate_clock.hpp).
#pragma once

#include "fedspallm/config/config.hpp"

#include <cstdint>
#include <optional>

namespace fedspallm::app {

class ClientLaws {
 public:
  ClientLaws(const config::Simulate& simulate, std::uint64_t seed, std::uint32_t round)
      : simulate_(simulate), seed_(seed), round_(round) {}

  /// Share of the blocks that the client can prune, uniform in [least_resources, 1].
  [[nodiscard]] double resources(std::uint32_t client) const;
  [[nodiscard]] bool straggles(std::uint32_t client) const;
  /// Its time for the same work over the median client's: log-normal, times straggler_factor for some.
  [[nodiscard]] double slowness(std::uint32_t client) const;
  /// Seconds for so many operations in this block, with the block's own log-normal jitter.
  [[nodiscard]] double seconds(std::uint32_t client, std::int64_t block, double operations) const;
  /// The block from which on it delivers nothing, uniform over the blocks; nothing for those that stay.
  [[nodiscard]] std::optional<std::int64_t> leaves_at(std::uint32_t client, std::int64_t blocks) const;

 private:
  enum class Law : std::uint32_t { resources = 1, speed, straggler, jitter, leaving, leaving_block };
  [[nodiscard]] double uniform(Law law, std::uint32_t client, std::uint64_t index = 0) const;  // [0, 1)
  [[nodiscard]] double normal(Law law, std::uint32_t client, std::uint64_t index = 0) const;

  config::Simulate simulate_;
  std::uint64_t seed_;
  std::uint32_t round_;
};

}  // namespace fedspallm::app
