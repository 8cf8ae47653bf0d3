// SPDX-License-Identifier: Apache-2.0
#include "tie_order.hpp"

namespace fedspallm::aggregate {

TieOrder::TieOrder(const Kernels& kernels, TieRule tie, DType dtype, const std::byte* elements,
                   std::int64_t cols, std::span<const std::int64_t> diagonal_sums, std::int64_t first)
    : kernels_(kernels),
      tie_(tie),
      dtype_(static_cast<std::size_t>(dtype)),
      element_bytes_(size_of(dtype)),
      elements_(reinterpret_cast<const unsigned char*>(elements)),
      cols_(cols),
      first_(first) {
  if (tie != TieRule::score || diagonal_sums.empty()) return;
  column_weights_.resize(diagonal_sums.size() + 64);
  for (std::size_t i = 0; i < column_weights_.size(); ++i)
    column_weights_[i] = static_cast<double>(diagonal_sums[i % diagonal_sums.size()]);
}

void TieOrder::keys(std::int64_t tile, TileKeys& keys) const {
  keys_of(elements_ + static_cast<std::size_t>(tile) * 64 * element_bytes_, tile, keys);
}

void TieOrder::keys_of(const unsigned char* elements, std::int64_t tile, TileKeys& keys) const {
  switch (tie_) {
    case TieRule::score:
      return kernels_.score_keys[dtype_](elements, column_weights_.data() + (first_ + tile * 64) % cols_,
                                         keys.data());
    case TieRule::magnitude:
      return kernels_.magnitude_keys[dtype_](elements, keys.data());
    case TieRule::index:
      return keys.fill(0);
  }
}

}  // namespace fedspallm::aggregate
