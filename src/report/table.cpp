// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/table.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/report/format.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fedspallm::report {

namespace {

constexpr const char* kGap = "  ";

std::string spaces(std::size_t count) {
  return std::string(count, ' ');
}

void add_fact(std::string& text, const std::string& name, const std::string& value) {
  text += fmt::format("{:<13}{}\n", name, value);
}

std::string memory_text(const std::vector<std::int64_t>& peaks) {
  const auto largest = std::max_element(peaks.begin(), peaks.end());
  if (peaks.size() == 1) return bytes_text(*largest);
  std::int64_t total = 0;
  for (const std::int64_t peak : peaks) total += peak;
  return fmt::format("{} on rank {}, {} on all {} ranks", bytes_text(*largest), largest - peaks.begin(),
                     bytes_text(total), peaks.size());
}

}  // namespace

TextTable::TextTable(std::vector<std::string> header) {
  require(!header.empty(), "a table has at least one column");
  rows_.push_back(std::move(header));
}

void TextTable::add_row(std::vector<std::string> cells) {
  require(cells.size() == rows_.front().size(), "as many cells as the header has");
  rows_.push_back(std::move(cells));
}

std::string TextTable::text() const {
  const std::size_t columns = rows_.front().size();
  std::vector<std::size_t> widths(columns, 0);
  for (const auto& row : rows_)
    for (std::size_t c = 0; c < columns; ++c) widths[c] = std::max(widths[c], display_width(row[c]));
  std::string result;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t c = 0; c < columns; ++c) {
      const std::string padding = spaces(widths[c] - display_width(rows_[r][c]));
      line += (c == 0 ? "" : kGap) + (c == 0 ? rows_[r][c] + padding : padding + rows_[r][c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    result += line + "\n";
    if (r > 0) continue;
    for (std::size_t c = 0; c < columns; ++c) result += (c == 0 ? "" : kGap) + std::string(widths[c], '-');
    result += "\n";
  }
  return result;
}

double geometric_mean(const std::vector<double>& values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (const double value : values) sum += std::log(value);  // NaN and negative numbers give NaN
  return std::exp(sum / static_cast<double>(values.size()));
}

std::string to_text(const ResultTable& table) {
  std::string text;
  const bool with_mean = table.sets.size() > 1;
  if (!table.sets.empty() && !table.rows.empty()) {
    std::vector<std::string> header = {"perplexity"};
    header.insert(header.end(), table.sets.begin(), table.sets.end());
    if (with_mean) header.emplace_back("geo. mean");
    TextTable perplexities(std::move(header));
    for (const ResultRow& row : table.rows) {
      require(row.perplexities.size() == table.sets.size(), "one perplexity per evaluation set");
      std::vector<std::string> cells = {row.label};
      for (const double value : row.perplexities) cells.push_back(perplexity_text(value));
      if (with_mean) cells.push_back(perplexity_text(geometric_mean(row.perplexities)));
      perplexities.add_row(std::move(cells));
    }
    text += perplexities.text() + "\n";
  }
  if (table.sparsity >= 0)
    add_fact(text, "sparsity", fmt::format("{:.6f} of the pruned matrices", table.sparsity));
  if (table.bytes_on_wire >= 0)
    add_fact(text, "bytes sent",
             fmt::format("{} ({}){}", count_text(table.bytes_on_wire), bytes_text(table.bytes_on_wire),
                         table.transport.empty() ? "" : ", transport " + table.transport));
  if (table.seconds >= 0)
    add_fact(text, "seconds",
             fmt::format("{:.1f}{}", table.seconds,
                         table.pruning_seconds >= 0
                             ? fmt::format(", of them pruning {:.1f}", table.pruning_seconds)
                             : ""));
  if (!table.peak_rss_bytes.empty()) add_fact(text, "peak memory", memory_text(table.peak_rss_bytes));
  return text;
}

}  // namespace fedspallm::report
