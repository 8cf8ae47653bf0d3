// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/counts.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <cmath>

namespace fedspallm {

std::int64_t exact_count(double sparsity, std::int64_t size) {
  require(sparsity >= 0.0 && sparsity <= 1.0 && size >= 0, "exact_count: 0 <= sparsity <= 1 and size >= 0");
  const double product = sparsity * static_cast<double>(size);
  const double nearest = std::round(product);
  const double count = std::abs(product - nearest) <= 1e-6 ? nearest : std::ceil(product);
  return std::min(static_cast<std::int64_t>(count), size);
}

Level find_level(std::span<const std::int64_t> kept, std::int64_t count) {
  for (std::size_t level = 1; level < kept.size() && count > 0; ++level) {
    if (kept[level] >= count) return {static_cast<std::uint32_t>(level), count};
    count -= kept[level];
  }
  return {};
}

}  // namespace fedspallm
