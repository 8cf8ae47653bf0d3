// SPDX-License-Identifier: Apache-2.0
#include "evaluate.hpp"

#include "fedspallm/base/error.hpp"

#include <nlohmann/json.hpp>

#include <bit>
#include <cmath>

namespace fedspallm::app {

namespace {

/// Doubles survive JSON exactly as their bits.
nlohmann::json bits_of(const std::vector<double>& values) {
  nlohmann::json list = nlohmann::json::array();
  for (const double value : values) list.push_back(std::bit_cast<std::uint64_t>(value));
  return list;
}

double from_bits(const nlohmann::json& value) {
  return std::bit_cast<double>(value.get<std::uint64_t>());
}

void check_finite(const std::string& label, const std::string& set, const std::vector<double>& sums) {
  for (std::size_t window = 0; window < sums.size(); ++window)
    check<NumericalError>(
        std::isfinite(sums[window]),
        fmt::format("perplexity of {} on '{}': window {} is not finite; the model's weights or the tokens "
                    "are damaged",
                    label, set, window));
}

/// The windows of a set that a participant evaluates: number `index` of `participants`.
data::Windows share_of(const data::Windows& all, std::int64_t index, std::int64_t participants) {
  data::Windows mine{0, all.length, {}};
  for (std::int64_t window = index; window < all.samples; window += participants) {
    const auto first = all.tokens.begin() + window * all.length;
    mine.tokens.insert(mine.tokens.end(), first, first + all.length);
    ++mine.samples;
  }
  return mine;
}

/// Sums by set and window, every window in a pass of its own: BLAS gives other last bits for other numbers of
/// rows, and which windows share a pass would depend on the number of ranks (rulings.md 8).
std::vector<std::vector<double>> nll_one_by_one(const model::ModelDirectory& model, backend::Backend& backend,
                                                const report::BlockSource& source,
                                                const std::vector<data::Windows>& sets) {
  std::vector<data::Windows> single;
  for (const data::Windows& set : sets)
    for (std::int64_t window = 0; window < set.samples; ++window)
      single.push_back(share_of(set, window, set.samples));
  const auto sums = report::window_nll(model, backend, source, single);
  std::vector<std::vector<double>> by_set;
  auto next = sums.begin();
  for (const data::Windows& set : sets) {
    auto& values = by_set.emplace_back();
    for (std::int64_t window = 0; window < set.samples; ++window) values.push_back((next++)->front());
  }
  return by_set;
}

}  // namespace

std::vector<report::Perplexity> evaluate(comm::Communicator& communicator, const model::ModelDirectory& model,
                                         backend::Backend& backend, const report::BlockSource& source,
                                         const std::vector<EvaluationSet>& sets, bool participates,
                                         const std::string& label) {
  nlohmann::json flags;
  if (communicator.rank() == 0) flags = nlohmann::json::array();
  for (const auto& text : communicator.gather(std::string(participates ? "1" : "0")))
    flags.push_back(text == "1");
  flags = nlohmann::json::parse(communicator.broadcast(flags.dump()));
  std::int64_t participants = 0, index = 0;
  for (int rank = 0; rank < communicator.size(); ++rank) {
    if (!flags[static_cast<std::size_t>(rank)].get<bool>()) continue;
    if (rank == communicator.rank()) index = participants;
    ++participants;
  }
  nlohmann::json mine = nlohmann::json::object();
  communicator.together([&] {
    if (!participates) return;
    std::vector<data::Windows> windows;
    for (const auto& set : sets) windows.push_back(share_of(set.windows, index, participants));
    const auto sums = nll_one_by_one(model, backend, source, windows);
    for (std::size_t set = 0; set < sums.size(); ++set) mine[std::to_string(set)] = bits_of(sums[set]);
    mine["index"] = index;
  });
  std::vector<std::vector<double>> all;
  for (const auto& set : sets) all.emplace_back(static_cast<std::size_t>(set.windows.samples), 0.0);
  for (const std::string& text : communicator.gather(mine.dump())) {
    const auto theirs = nlohmann::json::parse(text);
    if (!theirs.contains("index")) continue;
    for (std::size_t set = 0; set < sets.size(); ++set) {
      auto window = theirs["index"].get<std::int64_t>();
      for (const auto& value : theirs[std::to_string(set)]) {
        all[set][static_cast<std::size_t>(window)] = from_bits(value);
        window += participants;
      }
    }
  }
  std::vector<report::Perplexity> results;
  communicator.together([&] {
    for (std::size_t set = 0; set < sets.size() && communicator.rank() == 0; ++set) {
      check_finite(label, sets[set].name, all[set]);
      results.push_back(report::perplexity_of(all[set], sets[set].windows.length));
    }
  });
  return results;
}

std::map<std::string, std::vector<report::Perplexity>> evaluate_own(comm::Communicator& communicator,
                                                                    const model::ModelDirectory& model,
                                                                    backend::Backend& backend,
                                                                    const std::vector<OwnModel>& models,
                                                                    const std::vector<EvaluationSet>& sets) {
  nlohmann::json mine = nlohmann::json::object();
  communicator.together([&] {
    std::vector<data::Windows> windows;
    for (const auto& set : sets) windows.push_back(set.windows);
    for (const OwnModel& own : models) {
      const auto sums = nll_one_by_one(model, backend, own.source, windows);
      for (std::size_t set = 0; set < sums.size(); ++set) {
        check_finite(own.label, sets[set].name, sums[set]);
        mine[own.label].push_back(bits_of(sums[set]));
      }
    }
  });
  std::map<std::string, std::vector<report::Perplexity>> results;
  for (const std::string& text : communicator.gather(mine.dump())) {
    const auto theirs = nlohmann::json::parse(text);  // named: items() only refers to it
    for (const auto& [label, by_set] : theirs.items()) {
      for (std::size_t set = 0; set < by_set.size(); ++set) {
        std::vector<double> sums;
        for (const auto& value : by_set[set]) sums.push_back(from_bits(value));
        results[label].push_back(report::perplexity_of(sums, sets[set].windows.length));
      }
    }
  }
  return results;
}

}  // namespace fedspallm::app
