// SPDX-License-Identifier: Apache-2.0
// Purpose: the update that a virtual client would send of a matrix: the right shape, dtype, count and
// pattern, values in (-1, 1), by counter-based random numbers of (seed, round, client, block, matrix). So a
// part of it can be made alone, and how many weights a part keeps follows from the shape. Masks of different
// clients are independent. Cheap beside merging it. Non-goal: weights that mean something.
#pragma once

#include "fedspallm/comm/exchange.hpp"
#include "fedspallm/config/config.hpp"

#include <array>
#include <cstdint>
#include <vector>

namespace fedspallm::app {

class RandomWords;

class UpdateMaker {
 public:
  /// @pre every planned count of kept weights is known, and divisible as an N:M pattern wants it
  UpdateMaker(const comm::ExchangePlan& plan, const config::Pattern& pattern, std::uint64_t seed);

  /// What the update will be, without making it.
  [[nodiscard]] comm::UpdateSummary summary(std::size_t index, std::uint32_t client) const;
  [[nodiscard]] wire::MatrixUpdate make(std::size_t index, std::uint32_t client) const;

  /// Of every client: how many weights it keeps among these.
  [[nodiscard]] std::int64_t kept_of(std::size_t index, const aggregate::Slice& slice) const;
  /// The slice (size x 1) of make()'s matrix. @pre as wire::slice(); N:M: whole groups
  [[nodiscard]] wire::PackedMatrix make_slice(std::size_t index, std::uint32_t client,
                                              const aggregate::Slice& slice) const;
  /// make()'s diag(H); empty where the plan has none.
  [[nodiscard]] std::vector<float> make_diagonal(std::size_t index, std::uint32_t client) const;

 private:
  [[nodiscard]] std::uint64_t make_word(int count, int width, RandomWords& words) const;
  enum class Part : std::uint64_t { mask, last_word, values, diagonal };
  [[nodiscard]] std::uint64_t start_of(std::size_t index, std::uint32_t client, Part part) const;
  void fill_mask(std::size_t index, std::uint32_t client, const aggregate::Slice& slice,
                 std::vector<std::uint64_t>& bits) const;
  const comm::ExchangePlan& plan_;
  config::Pattern pattern_;
  static constexpr std::size_t kDraws = 1024;
  std::uint64_t seed_;
  std::array<std::vector<std::uint64_t>, 65> draws_;  // words by their number of bits, of those that occur
};

}  // namespace fedspallm::app
