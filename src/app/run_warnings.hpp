// SPDX-License-Identifier: Apache-2.0
// Purpose: what went other than asked while a run pruned, collected at the root for summary.json, run.h5 and
// the report: one sentence for each kind and round, whatever the number of blocks. Non-goals: the log, which
// says it at once; warnings about inputs; clients that were left out.
#pragma once

#include "fedspallm/store/records.hpp"

#include "written_block.hpp"
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace fedspallm::app {

class RunWarnings {
 public:
  void add(const BlockSummary& summary);
  /// A block that an earlier process of the run has written.
  void add(const store::BlockRecord& record);
  /// Blocks that no client prunes in this round.
  void add_uncovered(std::uint32_t round, const std::vector<std::int64_t>& blocks);
  /// A sentence of its own.
  void add(std::string text);

  [[nodiscard]] std::vector<std::string> texts() const;

 private:
  using Blocks = std::map<std::uint32_t, std::set<std::int64_t>>;  // by round
  Blocks uncovered_, above_target_, damped_;
  std::map<std::uint32_t, int> damping_steps_;  // the most, by round
  std::vector<std::string> others_;
};

}  // namespace fedspallm::app
