// SPDX-License-Identifier: Apache-2.0
#include "run_warnings.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace fedspallm::app {

namespace {

/// "block 3", "blocks 0-2, 5".
std::string blocks_text(const std::set<std::int64_t>& blocks) {
  std::string text = blocks.size() == 1 ? "block " : "blocks ";
  for (auto first = blocks.begin(); first != blocks.end();) {
    auto last = first, next = std::next(first);
    while (next != blocks.end() && *next == *last + 1) last = next++;
    text += fmt::format("{}{}", first == blocks.begin() ? "" : ", ", *first);
    if (last != first) text += fmt::format("-{}", *last);
    first = next;
  }
  return text;
}

/// Of all clients and matrices; the same number as in the summary of the block.
int damping_steps(const store::BlockRecord& record) {
  int steps = 0;
  for (const store::MatrixRecord& matrix : record.matrices)
    for (const store::ClientPart& part : matrix.clients)
      steps = std::max(steps, static_cast<int>(part.report.damping_steps));
  return steps;
}

}  // namespace

void RunWarnings::add(const BlockSummary& summary) {
  if (summary.above_target) above_target_[summary.round].insert(summary.block);
  if (summary.damping_steps == 0) return;
  damped_[summary.round].insert(summary.block);
  int& steps = damping_steps_[summary.round];
  steps = std::max(steps, summary.damping_steps);
}

void RunWarnings::add(const store::BlockRecord& record) {
  BlockSummary summary;
  summary.round = record.round;
  summary.block = record.block;
  summary.damping_steps = damping_steps(record);
  summary.above_target =
      std::any_of(record.matrices.begin(), record.matrices.end(), [](const store::MatrixRecord& matrix) {
        return matrix.pruned && matrix.target >= 0 && matrix.common_zeros + matrix.expanded > matrix.target;
      });
  add(summary);
}

void RunWarnings::add_uncovered(std::uint32_t round, const std::vector<std::int64_t>& blocks) {
  if (!blocks.empty()) uncovered_[round].insert(blocks.begin(), blocks.end());
}

void RunWarnings::add(std::string text) {
  others_.push_back(std::move(text));
}

std::vector<std::string> RunWarnings::texts() const {
  std::vector<std::string> texts = others_;
  const auto say = [&](const Blocks& by_round, const auto& what) {
    for (const auto& [round, blocks] : by_round)
      texts.push_back(fmt::format("round {}, {}: {}", round, blocks_text(blocks), what(round)));
  };
  say(uncovered_, [](std::uint32_t) { return std::string("pruned by no client; what they were stays"); });
  say(above_target_, [](std::uint32_t) {
    return std::string(
        "the clients agree on more zeros than the target asks for; nothing was expanded there");
  });
  say(damped_, [&](std::uint32_t round) {
    return fmt::format("a Hessian needed its damping raised (by 10^{} at most)", damping_steps_.at(round));
  });
  return texts;
}

}  // namespace fedspallm::app
