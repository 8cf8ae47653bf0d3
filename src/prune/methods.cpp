// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/prune/methods.hpp"

#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/rounding.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fedspallm::prune {

Settings settings_of_round(const config::Config& config, int round) {
  Settings settings{.method = config.prune.method,
                    .sparsity = config::sparsity_of_round(config, round),
                    .pattern = config.prune.pattern,
                    .block_size = config.prune.block_size,
                    .damping = config.prune.damping,
                    .order = config.prune.order,
                    .count = config.prune.count};
  if (settings.pattern.structured() && round < config.federation.rounds) {
    // The schedule in whole weights per group, at least one and never more than the last round drops.
    const int group = settings.pattern.group;
    const int final_drop = group - settings.pattern.keep;
    const int drop = std::clamp(static_cast<int>(std::lround(settings.sparsity * group)), 1, final_drop);
    settings.pattern.keep = group - drop;
    settings.sparsity = static_cast<double>(drop) / group;
  }
  return settings;
}

std::vector<std::int64_t> counts_by_region(double sparsity, std::span<const std::int64_t> region_sizes,
                                           std::span<const std::int64_t> previous) {
  require(previous.empty() || previous.size() == region_sizes.size(),
          "counts_by_region: one previous count per region");
  const auto before = [&](std::size_t region) {
    return previous.empty() ? std::int64_t{0} : previous[region];
  };
  const std::int64_t size = std::accumulate(region_sizes.begin(), region_sizes.end(), std::int64_t{0});
  std::int64_t previous_left = std::accumulate(previous.begin(), previous.end(), std::int64_t{0});
  const std::int64_t total = std::max(exact_count(sparsity, size), previous_left);
  std::vector<std::int64_t> counts;
  std::int64_t end = 0;
  std::int64_t dropped = 0;
  for (std::size_t region = 0; region < region_sizes.size(); ++region) {
    end += region_sizes[region];
    previous_left -= before(region);
    // What later regions have to drop anyway must stay within the total.
    const std::int64_t most = std::min(region_sizes[region], total - dropped - previous_left);
    const std::int64_t wanted = exact_count(sparsity, end) - dropped;
    counts.push_back(std::max(before(region), std::min(wanted, most)));
    dropped += counts.back();
  }
  return counts;
}

MatrixPruner::MatrixPruner(backend::Backend& backend, const Settings& settings)
    : backend_(backend), settings_(settings) {
  require(settings.sparsity >= 0 && settings.sparsity <= 1, "MatrixPruner: 0 <= sparsity <= 1");
  require(settings.block_size >= 1, "MatrixPruner: block_size >= 1");
}

void MatrixPruner::check_shape(const Settings& settings, const std::string& name, std::int64_t cols) {
  const config::Pattern& pattern = settings.pattern;
  if (!pattern.structured()) return;
  check<ConfigError>(cols % pattern.group == 0,
                     fmt::format("{}: {} columns are not divisible by {} (prune.pattern = \"{}:{}\")", name,
                                 cols, pattern.group, pattern.keep, pattern.group));
  check<ConfigError>(
      settings.block_size % pattern.group == 0,
      fmt::format("prune.block_size: found {}, expected a multiple of {} (prune.pattern = \"{}:{}\")",
                  settings.block_size, pattern.group, pattern.keep, pattern.group));
}

backend::View MatrixPruner::scratch(backend::Tensor& tensor, std::int64_t rows, std::int64_t cols) {
  const std::int64_t size = rows * cols;
  if (tensor.view().size() < size) tensor = backend_.allocate(1, size);
  return tensor.view().column_range(0, size).reshaped(rows, cols);
}

/// One copy of the whole mask: on a GPU each copy waits for all work before it.
std::vector<std::int64_t> MatrixPruner::dropped_before(backend::View previous_mask, std::int64_t region_rows,
                                                       std::int64_t region_columns) {
  if (previous_mask.empty()) return {};
  const std::int64_t rows = previous_mask.rows(), cols = previous_mask.cols();
  std::vector<std::uint8_t> host(static_cast<std::size_t>(previous_mask.size()));
  backend_.copy_out(previous_mask, std::span<std::uint8_t>(host));
  const std::int64_t across = divide_up(cols, region_columns);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(divide_up(rows, region_rows) * across), 0);
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t first = 0; first < cols; first += region_columns) {
      const auto begin = host.begin() + row * cols + first;
      counts[static_cast<std::size_t>(row / region_rows * across + first / region_columns)] +=
          std::count(begin, begin + std::min(region_columns, cols - first), std::uint8_t{0});
    }
  return counts;
}

double MatrixPruner::sparsegpt(backend::View w, const Factor& factor, backend::View previous_mask,
                               backend::View mask) {
  const std::int64_t rows = w.rows(), cols = w.cols(), step = settings_.block_size;
  auto& linear = backend_.linear();
  auto& prune = backend_.prune();
  const bool published = settings_.count == config::Count::published;
  if (published) {
    for (const std::int64_t column : factor.dead) backend_.fill(w.column_range(column, 1), 0.0F);
  }
  const backend::View diagonal = scratch(factor_row_, 1, cols);
  backend_.copy_in(std::span<const float>(factor.diagonal), diagonal);
  std::vector<std::int64_t> sizes;
  for (std::int64_t c = 0; c < cols; c += step) sizes.push_back(rows * std::min(step, cols - c));
  const std::vector<std::int64_t> counts =
      counts_by_region(settings_.sparsity, sizes, dropped_before(previous_mask, rows, step));

  prune.start_squares();
  for (std::int64_t c = 0; c < cols; c += step) {
    const std::int64_t width = std::min(step, cols - c);
    const backend::View w_block = w.column_range(c, width), mask_block = mask.column_range(c, width);
    const backend::View u_rows = factor.upper.view().row_range(c, width);
    const backend::View error = scratch(error_, rows, width);
    const backend::View previous =
        previous_mask.empty() ? backend::View{} : previous_mask.column_range(c, width);
    if (settings_.pattern.structured()) {
      prune.obs_block_n_of_m(w_block, u_rows.column_range(c, width), settings_.pattern.keep,
                             settings_.pattern.group, previous, mask_block, error);
    } else {
      const backend::View score = scratch(score_, rows, width);
      prune.saliency(w_block, diagonal.column_range(c, width), score);
      if (!previous.empty()) prune.prefer_dropped(previous, score);
      if (published) {
        const auto index = static_cast<std::int64_t>(static_cast<double>(score.size()) * settings_.sparsity);
        prune.select_published(score, std::min(index, score.size() - 1), mask_block);
      } else {
        prune.select_smallest(score, counts[static_cast<std::size_t>(c / step)], mask_block);
      }
      prune.obs_block(w_block, u_rows.column_range(c, width), mask_block, error);
    }
    prune.add_squares(error);
    const std::int64_t rest = cols - c - width;
    if (rest > 0)
      linear.subtract_product(error, u_rows.column_range(c + width, rest), w.column_range(c + width, rest));
  }
  return prune.squares();
}

void MatrixPruner::select(backend::View score, backend::View previous_mask, bool per_row,
                          backend::View mask) {
  auto& prune = backend_.prune();
  if (!previous_mask.empty()) prune.prefer_dropped(previous_mask, score);
  if (settings_.pattern.structured()) {
    prune.select_n_of_m(score, settings_.pattern.keep, settings_.pattern.group, mask);
    return;
  }
  if (!per_row) {
    const std::vector<std::int64_t> all = {score.size()};
    prune.select_smallest(score,
                          counts_by_region(settings_.sparsity, all,
                                           dropped_before(previous_mask, score.rows(), score.cols()))[0],
                          mask);
    return;
  }
  const std::vector<std::int64_t> sizes(static_cast<std::size_t>(score.rows()), score.cols());
  prune.select_smallest_per_row(
      score, counts_by_region(settings_.sparsity, sizes, dropped_before(previous_mask, 1, score.cols())),
      mask);
}

double MatrixPruner::drop(backend::View w, backend::View score, backend::View previous_mask, bool per_row,
                          backend::View mask) {
  auto& prune = backend_.prune();
  const auto squares_of_scores = [&] {
    prune.start_squares();
    prune.add_squares(score);
    return prune.squares();
  };
  const double all = squares_of_scores();
  select(score, previous_mask, per_row, mask);
  prune.apply_mask(mask, score);
  prune.apply_mask(mask, w);
  return std::max(0.0, all - squares_of_scores());
}

double MatrixPruner::wanda(backend::View w, std::span<const float> hessian_diagonal,
                           backend::View previous_mask, backend::View mask) {
  std::vector<float> norms(hessian_diagonal.begin(), hessian_diagonal.end());
  for (float& norm : norms) norm = std::sqrt(norm);
  const backend::View factor = scratch(factor_row_, 1, w.cols());
  backend_.copy_in(std::span<const float>(norms), factor);
  const backend::View score = scratch(score_, w.rows(), w.cols());
  backend_.prune().weighted_magnitude(w, factor, score);
  return drop(w, score, previous_mask, /*per_row=*/true, mask);
}

double MatrixPruner::magnitude(backend::View w, backend::View previous_mask, backend::View mask) {
  const backend::View factor = scratch(factor_row_, 1, w.cols());
  backend_.fill(factor, 1.0F);
  const backend::View score = scratch(score_, w.rows(), w.cols());
  backend_.prune().weighted_magnitude(w, factor, score);
  return drop(w, score, previous_mask, /*per_row=*/false, mask);
}

double MatrixPruner::random(backend::View w, const RandomKey& key, backend::View previous_mask,
                            backend::View mask) {
  std::vector<float> uniform(static_cast<std::size_t>(w.size()));
  for (std::size_t i = 0; i < uniform.size(); ++i)
    uniform[i] = static_cast<float>(random_bits(key, i) >> 40) * 0x1p-24F;
  const backend::View score = scratch(score_, w.rows(), w.cols());
  backend_.copy_in(std::span<const float>(uniform), score);
  return drop(w, score, previous_mask, /*per_row=*/false, mask);
}

}  // namespace fedspallm::prune
