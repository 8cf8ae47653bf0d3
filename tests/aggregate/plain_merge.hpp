// SPDX-License-Identifier: Apache-2.0
// Purpose: the meaning of a merge, written as plainly as possible: exact rational numbers, a full sort.
#pragma once

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/dtype.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <vector>

namespace fedspallm::test {

__extension__ using Wide = __int128;

/// Halves away from zero. Exact in double: a float times a power of two.
inline std::int64_t plain_quantize(float value, int q) {
  return static_cast<std::int64_t>(std::round(std::ldexp(static_cast<double>(value), -q)));
}

inline float element_value(DType dtype, std::uint32_t bits) {
  float value = 0;
  if (dtype == DType::f32) {
    std::memcpy(&value, &bits, 4);
  } else {
    const auto narrow_bits = static_cast<std::uint16_t>(bits);
    widen(dtype, &narrow_bits, &value, 1);
  }
  return value;
}

inline std::uint32_t element_bits(DType dtype, float value) {
  std::uint32_t bits = 0;
  narrow(dtype, &value, &bits, 1);  // little-endian
  return bits;
}

/// |sum * 2^q / n - element| times n 2^-s, s = the smaller of q and the element's exponent: an exact integer.
inline Wide scaled_distance(Wide sum, int q, Wide n, float element, int smallest) {
  int exponent = 0;
  const float fraction = std::frexp(element, &exponent);
  const auto mantissa = static_cast<Wide>(std::ldexp(fraction, 24));
  exponent -= 24;
  if (mantissa == 0) exponent = smallest;
  const Wide difference = (sum << (q - smallest)) - ((n * mantissa) << (exponent - smallest));
  return difference < 0 ? -difference : difference;
}

/// Pattern of the element of `dtype` nearest to sum 2^q / n, ties to the even pattern.
inline std::uint32_t plain_nearest(DType dtype, std::int64_t sum, int q, std::int64_t n) {
  if (sum == 0) return 0;
  const auto guess =
      static_cast<float>(std::ldexp(static_cast<double>(std::abs(sum)) / static_cast<double>(n), q));
  const std::uint32_t sign_bit = dtype == DType::f32 ? 0x80000000U : 0x8000U, sign = sum < 0 ? sign_bit : 0;
  if (dtype == DType::f16 && guess < 0x1p-26F)
    return sign;  // below half of the smallest; keeps shifts below short
  const std::uint32_t middle = element_bits(dtype, guess);
  int exponent = 0;
  (void)std::frexp(guess, &exponent);
  // Floats near the guess are multiples of at least this; with 24-bit mantissas none of 2^-149 is below
  // 2^-172.
  const int smallest = std::min(q, std::max(exponent - 27, -172));
  std::uint32_t best = 0;
  Wide best_distance = -1;
  for (std::uint32_t bits = middle < 2 ? 0 : middle - 2; bits <= middle + 2; ++bits) {
    const Wide distance = scaled_distance(std::abs(sum), q, n, element_value(dtype, bits), smallest);
    if (best_distance < 0 || distance < best_distance || (distance == best_distance && bits % 2 == 0)) {
      best = bits;
      best_distance = distance;
    }
  }
  return best | sign;
}

struct PlainResult {
  std::vector<float> values;  // dense, 0 where dropped
  std::vector<bool> kept;
  std::vector<std::uint32_t> votes;
  std::int64_t expanded = 0;
};

/// Weights of [first, last) go until `wanted` of them are dropped; most votes first, then key, then index.
inline void plain_expand(PlainResult& result, const std::vector<double>& keys, std::int64_t clients,
                         std::size_t first, std::size_t last, std::int64_t wanted) {
  std::vector<std::tuple<std::int64_t, double, std::size_t>> order;
  std::int64_t dropped = 0;
  for (std::size_t i = first; i < last; ++i) {
    if (result.kept[i])
      order.emplace_back(clients - result.votes[i], keys[i], i);
    else
      ++dropped;
  }
  std::sort(order.begin(), order.end());
  for (std::size_t k = 0; dropped < wanted; ++k, ++dropped) {
    result.kept[std::get<2>(order[k])] = false;
    ++result.expanded;
  }
}

/// eq. 5 to 7 for the clients' matrices. @param diagonal  integer sums of diag(H) per column (score)
inline PlainResult plain_merge(const std::vector<wire::PackedMatrix>& clients, aggregate::FixedPoint scale,
                               const aggregate::MergeRules& rules, DType dtype,
                               const std::vector<std::int64_t>& diagonal) {
  const wire::PackedMatrix& shape = clients.front();
  const auto size = static_cast<std::size_t>(shape.size());
  const auto n = std::ssize(clients);
  std::vector<std::int64_t> sum(size, 0), kept(size, 0);
  for (const wire::PackedMatrix& client : clients) {
    std::vector<float> dense(size);
    unpack(client, dense);
    for (std::size_t i = 0; i < size; ++i) {
      if (((client.bits[i / 64] >> (i % 64)) & 1U) == 0) continue;
      sum[i] += plain_quantize(dense[i], scale.q);
      ++kept[i];
    }
  }
  PlainResult result{std::vector<float>(size), std::vector<bool>(size), std::vector<std::uint32_t>(size)};
  std::vector<double> keys(size, 0);
  for (std::size_t i = 0; i < size; ++i) {
    result.votes[i] = static_cast<std::uint32_t>(n - kept[i]);
    result.kept[i] = kept[i] > 0;
    if (kept[i] == 0) continue;
    const std::int64_t divisor = rules.averaging == aggregate::Averaging::mean ? n : kept[i];
    result.values[i] = element_value(dtype, plain_nearest(dtype, sum[i], scale.q, divisor));
    const double value = result.values[i];
    if (rules.tie == aggregate::TieRule::magnitude) keys[i] = std::abs(value);
    if (rules.tie == aggregate::TieRule::score)
      keys[i] = value * value * static_cast<double>(diagonal[i % static_cast<std::size_t>(shape.cols)]);
  }
  if (rules.expand && rules.group == 0)
    plain_expand(result, keys, n, 0, size, exact_count(rules.sparsity, shape.size()));
  if (rules.expand && rules.group > 0) {
    const auto group = static_cast<std::size_t>(rules.group);
    for (std::size_t start = 0; start < size; start += group)
      plain_expand(result, keys, n, start, start + group, rules.group - rules.keep);
  }
  for (std::size_t i = 0; i < size; ++i)
    if (!result.kept[i]) result.values[i] = 0;
  return result;
}

}  // namespace fedspallm::test
