// SPDX-License-Identifier: Apache-2.0
// Purpose: text tables with aligned columns, and the table that `prune` ends with. Non-goal: measuring what
// is in it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fedspallm::report {

/// Rows of cells; the first column is aligned left, the others right.
class TextTable {
 public:
  /// @pre at least one column
  explicit TextTable(std::vector<std::string> header);
  /// @pre as many cells as the header has
  void add_row(std::vector<std::string> cells);
  /// Header, a rule and the rows, each line ended; no space at the ends of lines.
  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the first is the header
};

/// One model's perplexity on each set, in the order of ResultTable::sets. NaN = not measured.
struct ResultRow {
  std::string label;
  std::vector<double> perplexities;
};

/// What a run ends with. Facts that are negative or empty are left out.
struct ResultTable {
  std::vector<std::string> sets{};
  std::vector<ResultRow> rows{};  // dense, the stand-alone clients, the merged model
  double sparsity = -1;           // of the pruned matrices
  std::int64_t bytes_on_wire = -1;
  std::string transport{};
  double seconds = -1;
  double pruning_seconds = -1;
  std::vector<std::int64_t> peak_rss_bytes{};  // by rank
};

/// exp(mean(log x)); NaN when a value is missing or there is none.
[[nodiscard]] double geometric_mean(const std::vector<double>& values);

/// The table with a column of geometric means (over two sets or more), then one line per fact.
/// @pre each row has one value per set
[[nodiscard]] std::string to_text(const ResultTable& table);

}  // namespace fedspallm::report
