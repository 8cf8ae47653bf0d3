// SPDX-License-Identifier: Apache-2.0
#include "host_csr.hpp"

#include "fedspallm/base/rounding.hpp"

#include "access.hpp"
#include "checks.hpp"
#include <algorithm>
#include <utility>

namespace fedspallm::backend {

namespace {

constexpr std::int64_t kPanel = 16;  // rows of x that go together

struct HostMatrix final : CsrMatrix {
  HostMatrix(const Backend* owner, std::int64_t row_count, std::int64_t col_count,
             std::vector<std::int64_t> offsets_, std::vector<std::int32_t> columns_,
             std::vector<float> values_)
      : CsrMatrix(owner, row_count, col_count, std::ssize(values_)),
        offsets(std::move(offsets_)),
        columns(std::move(columns_)),
        values(std::move(values_)) {}
  std::vector<std::int64_t> offsets;  // rows + 1
  std::vector<std::int32_t> columns;
  std::vector<float> values;
};

/// Checked by its owner: each backend makes its own kind alone.
const HostMatrix& own(const CsrMatrix& matrix) {
  return static_cast<const HostMatrix&>(matrix);
}

struct Rows {
  float* data;
  std::int64_t stride;
  [[nodiscard]] float* operator[](std::int64_t row) const { return data + row * stride; }
};
Rows rows_of(const View& view) {
  return {view.empty() ? nullptr : Access::f32(view), view.stride()};
}

/// x's rows [first, first + count) as columns of `turned` (cols x kPanel), zeros beyond them.
void turn(const View& x, std::int64_t first, std::int64_t count, float* turned) {
  const Rows rows = rows_of(x);
  for (std::int64_t row = 0; row < kPanel; ++row)
    for (std::int64_t col = 0; col < x.cols(); ++col)
      turned[col * kPanel + row] = row < count ? rows[first + row][col] : 0.0F;
}

void panel(const HostMatrix& w, const float* turned, const View& bias, const View& y, std::int64_t first,
           std::int64_t count, bool add) {
  const Rows out = rows_of(y);
  const float* offset = bias.empty() ? nullptr : Access::f32(bias);
  for (std::int64_t row = 0; row < w.rows(); ++row) {
    float sums[kPanel] = {};
    for (std::int64_t k = w.offsets[static_cast<std::size_t>(row)];
         k < w.offsets[static_cast<std::size_t>(row) + 1]; ++k) {
      const float value = w.values[static_cast<std::size_t>(k)];
      const float* inputs = turned + w.columns[static_cast<std::size_t>(k)] * kPanel;
      for (std::int64_t i = 0; i < kPanel; ++i) sums[i] += value * inputs[i];
    }
    for (std::int64_t i = 0; i < count; ++i) {
      float& result = out[first + i][row];
      result = sums[i] + (offset == nullptr ? 0.0F : offset[row]) + (add ? result : 0.0F);
    }
  }
}

}  // namespace

std::unique_ptr<CsrMatrix> HostCsr::compress(View w) {
  checks::csr_compress(owner_, w);
  const Rows rows = rows_of(w);
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int32_t> columns;
  std::vector<float> values;
  for (std::int64_t row = 0; row < w.rows(); ++row) {
    for (std::int64_t col = 0; col < w.cols(); ++col) {
      const float value = rows[row][col];
      if (value == 0.0F) continue;
      columns.push_back(static_cast<std::int32_t>(col));
      values.push_back(value);
    }
    offsets.push_back(std::ssize(values));
  }
  return std::make_unique<HostMatrix>(owner_, w.rows(), w.cols(), std::move(offsets), std::move(columns),
                                      std::move(values));
}

void HostCsr::expand(const CsrMatrix& matrix, View w) {
  checks::csr_expand(owner_, matrix, w);
  const HostMatrix& from = own(matrix);
  const Rows rows = rows_of(w);
  for (std::int64_t row = 0; row < w.rows(); ++row) {
    std::fill_n(rows[row], w.cols(), 0.0F);
    for (std::int64_t k = from.offsets[static_cast<std::size_t>(row)];
         k < from.offsets[static_cast<std::size_t>(row) + 1]; ++k)
      rows[row][from.columns[static_cast<std::size_t>(k)]] = from.values[static_cast<std::size_t>(k)];
  }
}

void HostCsr::linear(View x, const CsrMatrix& w, View bias, View y, bool add) {
  checks::csr_linear(owner_, x, w, bias, y);
  if (y.empty()) return;
  parallel_(divide_up(x.rows(), kPanel), [&](std::int64_t unit) {
    const std::int64_t first = unit * kPanel, count = std::min(kPanel, x.rows() - first);
    std::vector<float> turned(static_cast<std::size_t>(x.cols() * kPanel));
    turn(x, first, count, turned.data());
    panel(own(w), turned.data(), bias, y, first, count, add);
  });
}

}  // namespace fedspallm::backend
