// SPDX-License-Identifier: Apache-2.0
#include "root.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::app {

RootLedger::RootLedger(store::BlockStore& store, bool coverage_required, Hooks hooks)
    : store_(store), coverage_required_(coverage_required), hooks_(std::move(hooks)) {}

void RootLedger::begin_round(std::uint32_t round) {
  round_ = round;
}

void RootLedger::take(const WrittenBlock& block) {
  if (hooks_.before_block) hooks_.before_block();  // also says who was dropped
  check<DataError>(block.uncovered.empty() || !coverage_required_,
                   fmt::format("{}: all clients that should prune it were dropped; more clients, or "
                               "federation.coverage = \"warn\", which leaves it as it is",
                               block.uncovered));
  if (!block.entry.empty()) {
    const std::scoped_lock lock(store_mutex_);
    store_.list_block(block.entry);
  }
  hooks_.after_block(block.summary);
}

std::uint32_t RootLedger::newest_round_before(std::uint32_t block, store::Position position) const {
  std::uint32_t newest = 0;
  for (const auto& [round, index] : store_.blocks())
    if (index == block && store::Position{round, index} < position) newest = std::max(newest, round);
  return newest;
}

void RootLedger::record_dense_blocks(const model::ModelDirectory& model) {
  const model::Architecture& architecture = model.architecture();
  for (std::int64_t block = 0; block < architecture.blocks; ++block) {
    if (store_.newest_round(static_cast<std::uint32_t>(block))) continue;
    store::BlockRecord record;
    record.block = static_cast<std::uint32_t>(block);
    for (std::size_t matrix = 0; matrix < architecture.matrices.size(); ++matrix) {
      store::MatrixRecord& entry = record.matrices.emplace_back();
      entry.name = model.matrix_name(block, matrix);
      entry.pruned = false;
      entry.matrix.rows = architecture.matrices[matrix].rows;
      entry.matrix.cols = architecture.matrices[matrix].cols;
    }
    store_.write_block(record);
  }
}

std::string RootLedger::list() const {
  const std::scoped_lock lock(store_mutex_);
  return store_.list();
}

std::vector<std::byte> RootLedger::provide(std::uint32_t block) const {
  const std::scoped_lock lock(store_mutex_);
  // Only rounds before this one count: a slow rank must not see what faster ones have merged meanwhile.
  const std::uint32_t newest = newest_round_before(block, {round_, 0});
  if (newest == 0) return {};
  return store::encode_block(store_.read_block(newest, block, store::Votes::skip));
}

}  // namespace fedspallm::app
