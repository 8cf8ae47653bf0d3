// SPDX-License-Identifier: Apache-2.0
// The two forms in which an inspection is printed: JSON (rulings.md 12) and a table per block and role.
#include "fedspallm/store/inspect.hpp"
#include "fedspallm/store/records.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>

namespace fedspallm::store {

namespace {

using Json = nlohmann::ordered_json;

/// "q_proj" of "model.layers.3.self_attn.q_proj.weight".
std::string role_of(std::string name) {
  constexpr std::string_view kWeight = ".weight";
  if (name.ends_with(kWeight)) name.resize(name.size() - kWeight.size());
  const std::size_t dot = name.rfind('.');
  return dot == std::string::npos ? name : name.substr(dot + 1);
}

struct Sum {
  std::int64_t dropped = 0, zeros = 0, size = 0;
  void add(const InspectedMatrix& matrix) {
    dropped += matrix.dropped;
    zeros += matrix.zeros;
    size += matrix.rows * matrix.columns;
  }
  [[nodiscard]] double percent() const {
    return size > 0 ? 100.0 * static_cast<double>(dropped) / static_cast<double>(size) : 0.0;
  }
};

/// Sparsity per block and role, with totals at the right and at the bottom.
class Table {
 public:
  explicit Table(const std::vector<InspectedMatrix>& matrices) {
    for (const InspectedMatrix& matrix : matrices) {
      const std::string role = role_of(matrix.name);
      if (!by_role_.contains(role)) roles_.push_back(role);
      cells_[matrix.block][role].add(matrix);
      by_block_[matrix.block].add(matrix);
      by_role_[role].add(matrix);
      total_.add(matrix);
    }
  }

  [[nodiscard]] std::string text() const {
    std::string out = fmt::format("{:>6}", "block");
    for (const std::string& role : roles_) out += fmt::format("  {:>{}}", role, width(role));
    out += fmt::format("  {:>9}\n", "all");
    for (const auto& [block, row] : cells_) out += line(fmt::format("{}", block), row, by_block_.at(block));
    return out + line("total", by_role_, total_);
  }
  [[nodiscard]] const Sum& total() const { return total_; }

 private:
  static std::size_t width(const std::string& role) { return std::max<std::size_t>(role.size(), 9); }

  [[nodiscard]] std::string line(const std::string& title, const std::map<std::string, Sum>& row,
                                 const Sum& all) const {
    std::string out = fmt::format("{:>6}", title);
    for (const std::string& role : roles_) {
      const auto cell = row.find(role);
      const std::string value = cell == row.end() ? "-" : fmt::format("{:.3f} %", cell->second.percent());
      out += fmt::format("  {:>{}}", value, width(role));
    }
    return out + fmt::format("  {:>9}\n", fmt::format("{:.3f} %", all.percent()));
  }

  std::vector<std::string> roles_;
  std::map<std::int64_t, std::map<std::string, Sum>> cells_;
  std::map<std::int64_t, Sum> by_block_;
  std::map<std::string, Sum> by_role_;
  Sum total_;
};

Json to_json(const InspectedMatrix& matrix) {
  Json json = {{"name", matrix.name},       {"block", matrix.block},     {"rows", matrix.rows},
               {"columns", matrix.columns}, {"dropped", matrix.dropped}, {"zeros", matrix.zeros},
               {"target", matrix.target},   {"votes", matrix.votes}};
  if (!matrix.client.empty()) json["client"] = matrix.client;
  return json;
}

}  // namespace

std::string to_json(const Inspection& inspection) {
  Json matrices = Json::array();
  for (const InspectedMatrix& matrix : inspection.matrices) matrices.push_back(to_json(matrix));
  Json provenance = Json::object();
  Json warnings = Json::array();
  for (const auto& [key, value] : inspection.provenance) {
    if (key == "warning")
      warnings.push_back(value);
    else
      provenance[key] = value;
  }
  Json json = {{"format_version", kFormatVersion},    {"kind", inspection.kind},
               {"complete", inspection.complete},     {"ok", inspection.problems.empty()},
               {"problems", inspection.problems},     {"sparsity", inspection.sparsity},
               {"matrices", std::move(matrices)},     {"clients", inspection.clients},
               {"provenance", std::move(provenance)}, {"warnings", std::move(warnings)}};
  for (const auto& [client, sparsity] : inspection.client_sparsity)
    json["client_sparsity"][client] = sparsity;
  return json.dump(1, ' ', false, Json::error_handler_t::replace);
}

std::string to_text(const Inspection& inspection) {
  const Table table(inspection.matrices);
  const Sum& total = table.total();
  std::string out = fmt::format("{}{}\n", inspection.kind, inspection.complete ? "" : " (incomplete)");
  for (const auto& [key, value] : inspection.provenance) out += fmt::format("  {}: {}\n", key, value);
  if (!inspection.clients.empty()) out += fmt::format("  clients: {}\n", fmt::join(inspection.clients, ", "));
  out += "\nSparsity of the linear weights inside decoder blocks (the pruned set)\n" + table.text();
  out += fmt::format("\n{} of {} weights {} ({:.4f} %); {} zeros in all\n", total.dropped, total.size,
                     inspection.kind == "run" ? "dropped" : "are zero", total.percent(), total.zeros);
  for (const auto& [client, sparsity] : inspection.client_sparsity)
    out += fmt::format("stand-alone {}: {:.4f} % dropped\n", client, 100 * sparsity);
  if (inspection.problems.empty()) return out + "Recounted: no differences\n";
  out += fmt::format("Recounted: {} difference{}\n", inspection.problems.size(),
                     inspection.problems.size() == 1 ? "" : "s");
  for (const std::string& problem : inspection.problems) out += "  " + problem + "\n";
  return out;
}

}  // namespace fedspallm::store
