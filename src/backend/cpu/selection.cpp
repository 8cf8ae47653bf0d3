// SPDX-License-Identifier: Apache-2.0
#include "selection.hpp"

#include <algorithm>

namespace fedspallm::backend::cpu {

namespace {

constexpr std::int64_t bins = 4096;

struct Digit {
  int shift;
  std::uint32_t mask;
  int prefix_shift;  // 32: no digits known yet
};
constexpr Digit digits[3] = {{20, 0xfffU, 32}, {10, 0x3ffU, 20}, {0, 0x3ffU, 10}};

/// The bin that holds element `remaining`; subtracts the elements of the bins below it.
std::uint32_t find_bin(const std::uint64_t* totals, std::int64_t& remaining) {
  std::uint32_t bin = 0;
  while (static_cast<std::int64_t>(totals[bin]) <= remaining)
    remaining -= static_cast<std::int64_t>(totals[bin++]);
  return bin;
}

/// Units of at least 32768 scores, and few enough for their histograms to stay small.
Cut units_of(std::int64_t size) {
  return {size, std::max<std::int64_t>(32768, (size + 255) / 256)};
}

}  // namespace

Selection::Selection(Engine& engine, Matrix<float> scores, std::int64_t index)
    : engine_(engine), scores_(scores), units_(units_of(scores.size())), remaining_(index) {
  for (const Digit& part : digits) digit(part.shift, part.mask, part.prefix_shift);
  below_ = index - remaining_;
}

template <class Body>
void Selection::spans(std::int64_t unit, Body body) const {
  const Range range = units_[unit];
  const std::int64_t width = scores_.contiguous() ? scores_.size() : scores_.cols;
  for (std::int64_t first = range.first; first < range.last;) {
    const std::int64_t row = first / width;
    const std::int64_t column = first % width;
    const std::int64_t count = std::min(width - column, range.last - first);
    body(row, column, count);
    first += count;
  }
}

void Selection::digit(int shift, std::uint32_t digit_mask, int prefix_shift) {
  auto* histograms = engine_.shared.elements<std::uint32_t>(units_.count() * bins + 2 * bins);
  auto* totals = reinterpret_cast<std::uint64_t*>(histograms + units_.count() * bins);
  const std::uint32_t prefix = prefix_shift >= 32 ? 0 : key_ >> prefix_shift;
  const auto used = static_cast<std::int64_t>(digit_mask) + 1;
  engine_.run(units_.count(), [&](std::int64_t unit, int) {
    std::uint32_t* histogram = histograms + unit * bins;
    std::fill(histogram, histogram + used, 0U);
    spans(unit, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
      engine_.kernels.prune.histogram(scores_.row(row) + column, count, shift, digit_mask, prefix_shift,
                                      prefix, histogram);
    });
  });
  std::fill(totals, totals + used, std::uint64_t{0});
  for (std::int64_t unit = 0; unit < units_.count(); ++unit)
    for (std::int64_t bin = 0; bin < used; ++bin) totals[bin] += histograms[unit * bins + bin];
  const std::uint32_t bin = find_bin(totals, remaining_);
  key_ |= bin << shift;
  if (shift != 0) return;
  equal_ = static_cast<std::int64_t>(totals[bin]);
  equal_of_unit_.resize(static_cast<std::size_t>(units_.count()));
  for (std::int64_t unit = 0; unit < units_.count(); ++unit)
    equal_of_unit_[static_cast<std::size_t>(unit)] = histograms[unit * bins + bin];
}

void Selection::write(Matrix<std::uint8_t> mask, std::int64_t equal_to_drop) const {
  std::vector<std::int64_t> quota(equal_of_unit_.size());
  for (std::size_t unit = 0; unit < quota.size(); ++unit) {
    quota[unit] = std::min(equal_to_drop, equal_of_unit_[unit]);
    equal_to_drop -= quota[unit];
  }
  const std::int64_t width = mask.cols;
  engine_.run(units_.count(), [&](std::int64_t unit, int) {
    std::int64_t left = quota[static_cast<std::size_t>(unit)];
    spans(unit, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
      // The spans follow the scores; the mask may have other strides, so a span may cross its rows.
      for (std::int64_t done = 0; done < count;) {
        const std::int64_t index = row * width + column + done;
        const std::int64_t part = mask.contiguous() ? count : std::min(count - done, width - index % width);
        std::uint8_t* to = mask.contiguous() ? mask.data + index : mask.row(index / width) + index % width;
        left -= engine_.kernels.prune.threshold_mask(scores_.row(row) + column + done, part, key_, left, to);
        done += part;
      }
    });
  });
}

void select_in_row(const PruneKernels& kernels, const float* scores, std::int64_t n, std::int64_t count,
                   std::uint32_t* histogram, std::uint8_t* mask) {
  if (count == 0 || count == n) {
    std::fill(mask, mask + n, static_cast<std::uint8_t>(count == 0));
    return;
  }
  std::uint32_t key = 0;
  std::int64_t remaining = count - 1;
  for (const Digit& part : digits) {
    std::fill(histogram, histogram + part.mask + 1, 0U);
    kernels.histogram(scores, n, part.shift, part.mask, part.prefix_shift,
                      part.prefix_shift >= 32 ? 0 : key >> part.prefix_shift, histogram);
    std::uint32_t bin = 0;
    while (histogram[bin] <= remaining) remaining -= histogram[bin++];
    key |= bin << part.shift;
  }
  kernels.threshold_mask(scores, n, key, remaining + 1, mask);
}

}  // namespace fedspallm::backend::cpu
