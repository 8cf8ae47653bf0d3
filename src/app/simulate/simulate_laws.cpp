// SPDX-License-Identifier: Apache-2.0
#include "simulate_laws.hpp"

#include "fedspallm/base/random.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fedspallm::app {

double ClientLaws::uniform(Law law, std::uint32_t client, std::uint64_t index) const {
  const std::uint64_t bits = random_bits({.seed = seed_,
                                          .use = RandomUse::simulation,
                                          .round = round_,
                                          .client = client,
                                          .block = static_cast<std::uint32_t>(law)},
                                         index);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

/// Box and Muller, of two numbers.
double ClientLaws::normal(Law law, std::uint32_t client, std::uint64_t index) const {
  const double radius = std::sqrt(-2 * std::log(1 - uniform(law, client, 2 * index)));
  return radius * std::cos(2 * std::numbers::pi * uniform(law, client, 2 * index + 1));
}

double ClientLaws::resources(std::uint32_t client) const {
  const double least = simulate_.least_resources;
  return least + (1 - least) * uniform(Law::resources, client);
}

bool ClientLaws::straggles(std::uint32_t client) const {
  return uniform(Law::straggler, client) < simulate_.stragglers;
}

double ClientLaws::slowness(std::uint32_t client) const {
  return std::exp(simulate_.spread * normal(Law::speed, client)) *
         (straggles(client) ? simulate_.straggler_factor : 1);
}

double ClientLaws::seconds(std::uint32_t client, std::int64_t block, double operations) const {
  const double jitter =
      std::exp(simulate_.jitter * normal(Law::jitter, client, static_cast<std::uint64_t>(block)));
  return operations / simulate_.flops * slowness(client) * jitter;
}

std::optional<std::int64_t> ClientLaws::leaves_at(std::uint32_t client, std::int64_t blocks) const {
  if (uniform(Law::leaving, client) >= simulate_.dropouts) return std::nullopt;
  const double block = uniform(Law::leaving_block, client) * static_cast<double>(blocks);
  return std::min(blocks - 1, static_cast<std::int64_t>(block));
}

}  // namespace fedspallm::app
