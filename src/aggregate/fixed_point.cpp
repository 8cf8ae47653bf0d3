// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/error.hpp"

#include "../base/merge_elements.hpp"
#include <bit>
#include <cmath>

namespace fedspallm::aggregate {

FixedPoint FixedPoint::covering(float largest, std::int64_t clients) {
  require(std::isfinite(largest) && largest >= 0, "FixedPoint::covering: largest is finite and >= 0");
  require(clients >= 1 && clients < (std::int64_t{1} << 24), "FixedPoint::covering: 1 <= clients < 2^24");
  int exponent = 0;  // of the smallest power of two >= largest; any scale represents 0
  if (largest > 0) {
    const float fraction = std::frexp(largest, &exponent);  // in [0.5, 1)
    if (fraction == 0.5F) --exponent;
  }
  const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(clients - 1)));
  return {exponent + bits - 56};
}

std::int64_t quantize(float value, FixedPoint scale) {
  require(std::isfinite(value) && std::abs(static_cast<double>(value)) <= std::ldexp(1.0, scale.q + 56),
          "quantize: value is finite and at most 2^(q + 56) in magnitude");
  return quantize_bits(std::bit_cast<std::uint32_t>(value), scale.q);
}

}  // namespace fedspallm::aggregate
