// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/perplexity.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>

namespace fedspallm::report {

namespace {

/// Consecutive windows of one set that are in memory together.
struct Group {
  std::size_t set = 0;
  std::int64_t first = 0;  // window
  std::int64_t count = 0;
  backend::Tensor hidden;
};

std::span<const std::int32_t> tokens_of(const data::Windows& windows, const Group& group) {
  return std::span(windows.tokens)
      .subspan(static_cast<std::size_t>(group.first * windows.length),
               static_cast<std::size_t>(group.count * windows.length));
}

/// Cuts all windows into lists of groups, each list within the budget of hidden-state bytes (at least one
/// window).
std::vector<std::vector<Group>> cut(std::span<const data::Windows> sets, std::int64_t hidden_size,
                                    std::int64_t budget) {
  std::vector<std::vector<Group>> lists(1);
  std::int64_t used = 0;
  for (std::size_t set = 0; set < sets.size(); ++set) {
    const std::int64_t bytes = sets[set].length * hidden_size * 4;
    for (std::int64_t window = 0; window < sets[set].samples; ++window) {
      if (used + bytes > budget && used > 0) {
        lists.emplace_back();
        used = 0;
      }
      used += bytes;
      auto& list = lists.back();
      if (list.empty() || list.back().set != set) {
        list.emplace_back();
        list.back().set = set;
        list.back().first = window;
      }
      ++list.back().count;
    }
  }
  return lists;
}

}  // namespace

BlockSource dense_source(const model::ModelDirectory& model, backend::Backend& backend) {
  return [&model, &backend](std::int64_t block) { return model::load_block(model, block, backend); };
}

std::vector<std::vector<double>> window_nll(const model::ModelDirectory& model, backend::Backend& backend,
                                            const BlockSource& source, std::span<const data::Windows> sets,
                                            std::int64_t budget_bytes) {
  const backend::Fp32Products exact(backend);  // the same measure for whatever was pruned in whatever way
  const model::Architecture& architecture = model.architecture();
  std::vector<std::vector<double>> sums(sets.size());
  std::map<std::int64_t, std::unique_ptr<model::BlockForward>> forwards;  // by sequence length
  for (std::size_t set = 0; set < sets.size(); ++set) {
    sums[set].assign(static_cast<std::size_t>(sets[set].samples), 0.0);
    auto& forward = forwards[sets[set].length];
    if (!forward)
      forward = std::make_unique<model::BlockForward>(
          backend, architecture, sets[set].length,
          model::rows_of_batch(sets[set].length, backend.rows_per_batch()));
  }
  model::LanguageHead head(model, backend);
  for (auto& groups : cut(sets, architecture.hidden_size, budget_bytes)) {
    for (Group& group : groups) {
      const data::Windows& windows = sets[group.set];
      group.hidden = backend.allocate(group.count * windows.length, architecture.hidden_size);
      model::embed(model, tokens_of(windows, group), windows.length, backend, group.hidden);
    }
    for (std::int64_t block = 0; block < architecture.blocks; ++block) {
      const model::BlockWeights weights = source(block);
      for (Group& group : groups) {
        model::BlockForward& forward = *forwards[sets[group.set].length];
        for (std::int64_t row = 0; row < group.hidden.rows(); row += forward.max_rows())
          forward.forward(weights, group.hidden.view().row_range(
                                       row, std::min(forward.max_rows(), group.hidden.rows() - row)));
      }
    }
    for (Group& group : groups) {
      const data::Windows& windows = sets[group.set];
      std::vector<double> nll(static_cast<std::size_t>(group.count * windows.length));
      head.token_nll(group.hidden, tokens_of(windows, group), windows.length, nll);
      for (std::int64_t window = 0; window < group.count; ++window) {
        const auto first = nll.begin() + window * windows.length;
        sums[group.set][static_cast<std::size_t>(group.first + window)] =
            std::accumulate(first, first + windows.length, 0.0);
      }
      group.hidden = backend::Tensor{};
    }
  }
  return sums;
}

Perplexity perplexity_of(std::span<const double> window_sums, std::int64_t length) {
  require(!window_sums.empty() && length >= 2, "perplexity_of: at least one window of at least two tokens");
  Perplexity result;
  result.samples = static_cast<std::int64_t>(window_sums.size());
  result.predictions = result.samples * (length - 1);
  result.nll =
      std::accumulate(window_sums.begin(), window_sums.end(), 0.0) / static_cast<double>(result.predictions);
  result.perplexity = std::exp(result.nll);
  return result;
}

}  // namespace fedspallm::report
