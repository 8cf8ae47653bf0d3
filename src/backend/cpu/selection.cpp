// SPDX-License-Identifier: Apache-2.0
#include "selection.hpp"

#include <algorithm>
#include <array>

namespace fedspallm::backend::cpu {

namespace {

/// What PruneKernels::histogram() counted in two tables, in the first of them.
void join_tables(std::uint32_t* counts) {
  for (std::int64_t bin = 0; bin < kSelectionBins; ++bin) counts[bin] += counts[kSelectionBins + bin];
}

/// The bin of `counts` in which the element lies becomes the key's digit at `shift`. @return its count
template <class Count>
std::int64_t take_digit(Search& search, const Count* counts, int shift) {
  std::uint32_t bin = 0;
  while (static_cast<std::int64_t>(counts[bin]) <= search.remaining)
    search.remaining -= static_cast<std::int64_t>(counts[bin++]);
  search.key |= bin << shift;
  return static_cast<std::int64_t>(counts[bin]);
}

/// The lower 20 bits, from the keys that share the upper 12. @return how many of them are the key found
std::int64_t take_lower_digits(Search& search, std::span<const std::uint32_t> keys) {
  constexpr std::size_t lower_bins = 1024;
  std::int64_t equal = 0;
  for (const int shift : {10, 0}) {
    std::array<std::int64_t, lower_bins> counts{};
    const std::uint32_t above = search.key >> (shift + 10);
    for (const std::uint32_t key : keys)
      if (key >> (shift + 10) == above) ++counts[(key >> shift) % lower_bins];
    equal = take_digit(search, counts.data(), shift);
  }
  return equal;
}

/// Units of at least 16384 scores, and few enough for their histograms to stay small.
Cut units_of(std::int64_t size) {
  return {size, std::max<std::int64_t>(16384, (size + 255) / 256)};
}

}  // namespace

Selection::Selection(Engine& engine, Matrix<float> scores, std::int64_t index)
    : engine_(engine), scores_(scores), units_(units_of(scores.size())) {
  Search search{.remaining = index};
  const std::vector<std::int64_t> ends = find_first_digit(search);
  const std::span<const std::uint32_t> keys = collect(search.key >> kSelectionShift, ends);
  equal_ = take_lower_digits(search, keys);
  key_ = search.key;
  below_ = index - search.remaining;
  const std::uint32_t* first = keys.data();
  for (const std::int64_t end : ends) {
    const std::uint32_t* last = keys.data() + end;
    equal_of_unit_.push_back(std::count(first, last, key_));
    first = last;
  }
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

std::vector<std::int64_t> Selection::find_first_digit(Search& search) {
  constexpr std::int64_t bins = kSelectionBins;
  auto* histograms = engine_.shared.elements<std::uint32_t>(units_.count() * 2 * bins + 2 * bins);
  auto* totals = reinterpret_cast<std::uint64_t*>(histograms + units_.count() * 2 * bins);
  engine_.run(units_.count(), [&](std::int64_t unit, int) {
    std::uint32_t* histogram = histograms + unit * 2 * bins;
    std::fill(histogram, histogram + 2 * bins, 0U);
    spans(unit, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
      engine_.kernels.prune.histogram(scores_.row(row) + column, count, histogram);
    });
    join_tables(histogram);
  });
  std::fill(totals, totals + bins, std::uint64_t{0});
  for (std::int64_t unit = 0; unit < units_.count(); ++unit)
    for (std::int64_t bin = 0; bin < bins; ++bin) totals[bin] += histograms[unit * 2 * bins + bin];
  take_digit(search, totals, kSelectionShift);
  std::vector<std::int64_t> ends;
  std::int64_t end = 0;
  for (std::int64_t unit = 0; unit < units_.count(); ++unit)
    ends.push_back(end += histograms[unit * 2 * bins + (search.key >> kSelectionShift)]);
  return ends;
}

std::span<const std::uint32_t> Selection::collect(std::uint32_t digit,
                                                  const std::vector<std::int64_t>& ends) {
  auto* keys = engine_.shared.elements<std::uint32_t>(ends.back());
  engine_.run(units_.count(), [&](std::int64_t unit, int) {
    std::uint32_t* to = keys + (unit == 0 ? 0 : ends[static_cast<std::size_t>(unit - 1)]);
    spans(unit, [&](std::int64_t row, std::int64_t column, std::int64_t count) {
      to += engine_.kernels.prune.collect_keys(scores_.row(row) + column, count, digit, to);
    });
  });
  return {keys, static_cast<std::size_t>(ends.back())};
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
                   std::uint32_t* scratch, std::uint8_t* mask) {
  if (count == 0 || count == n) {
    std::fill(mask, mask + n, static_cast<std::uint8_t>(count == 0));
    return;
  }
  Search search{.remaining = count - 1};
  std::fill(scratch, scratch + 2 * kSelectionBins, 0U);
  kernels.histogram(scores, n, scratch);
  join_tables(scratch);
  take_digit(search, scratch, kSelectionShift);
  std::uint32_t* keys = scratch + 2 * kSelectionBins;
  const std::int64_t found = kernels.collect_keys(scores, n, search.key >> kSelectionShift, keys);
  take_lower_digits(search, {keys, static_cast<std::size_t>(found)});
  kernels.threshold_mask(scores, n, search.key, search.remaining + 1, mask);
}

}  // namespace fedspallm::backend::cpu
