// SPDX-License-Identifier: Apache-2.0
#include "root.hpp"

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/dtype.hpp"
#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <chrono>
#include <span>

namespace fedspallm::app {

namespace {
double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The model's own bits as a packed matrix's values. Sparsity 0 changes none (rulings.md 3, 15), but sums in
/// fixed point turn -0 into +0 and round what is tiny beside the largest weight.
std::vector<std::byte> dense_values(const model::ModelDirectory& model, const comm::PlannedUnit& unit) {
  const model::TensorView tensor = model.tensor(unit.name);
  if (tensor.dtype() == unit.dtype) return {tensor.bytes.begin(), tensor.bytes.end()};
  std::vector<float> wide(static_cast<std::size_t>(unit.rows * unit.cols));
  widen(tensor.dtype(), tensor.bytes.data(), wide.data(), wide.size());
  const auto bytes = std::as_bytes(std::span(wide));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

RootMerger::RootMerger(const model::ModelDirectory& model, store::BlockStore& store,
                       store::ModelWriter* writer, std::function<void(const BlockSummary&)> on_block)
    : model_(model), store_(store), writer_(writer), on_block_(std::move(on_block)) {}

void RootMerger::begin_round(const RoundPlan& plan) {
  plan_ = &plan;
}

void RootMerger::complete(const comm::CompletedUnit& unit) {
  require(plan_ != nullptr && writer_ != nullptr,
          "RootMerger::complete: begin_round first, with a model writer");
  const auto start = std::chrono::steady_clock::now();
  const comm::PlannedUnit& planned = plan_->exchange.units[unit.index];
  const auto clients = static_cast<std::int64_t>(planned.clients.size());
  aggregate::MergedMatrix merged =
      aggregate::finish(*unit.merge, clients, plan_->rules, planned.dtype, unit.diagonal_sums);
  store::MatrixRecord& record = record_.matrices.emplace_back();
  record.name = planned.name;
  record.matrix = std::move(merged.matrix);
  record.votes = std::move(merged.votes);
  record.histogram = std::move(merged.histogram);
  record.target = merged.target;
  record.common_zeros = merged.common_zeros;
  record.expanded = merged.expanded;
  record.kept_zeros = merged.kept_zeros;
  if (plan_->rules.sparsity == 0.0 && record.histogram.front() == record.matrix.size()) {
    record.matrix.values = dense_values(model_, planned);
    record.kept_zeros = wire::count_kept_zeros(record.matrix);
  }
  record.keep = plan_->rules.expand ? plan_->rules.keep : 0;
  record.group = plan_->rules.expand ? plan_->rules.group : 0;
  for (const comm::ClientReport& report : unit.reports) {
    record.clients.push_back({report.client, report.kept, report.report});
    summary_.error += report.report.error / static_cast<double>(clients);
    summary_.damping_steps = std::max(summary_.damping_steps, static_cast<int>(report.report.damping_steps));
  }
  summary_.clients = clients;
  summary_.weights += planned.rows * planned.cols;
  summary_.dropped += record.matrix.dropped();
  summary_.expanded += merged.expanded;
  summary_.above_target |= merged.above_target;
  summary_.merge_seconds += seconds_since(start);
  if (record_.matrices.size() == model_.architecture().matrices.size()) {
    record_.round = planned.id.round;
    record_.block = planned.id.block;
    finish_block();
  }
}

void RootMerger::finish_block() {
  const auto start = std::chrono::steady_clock::now();
  {
    const std::scoped_lock lock(store_mutex_);
    store_.write_block(record_);
  }
  for (std::size_t matrix = 0; matrix < record_.matrices.size(); ++matrix)
    writer_->write_matrix(record_.block, matrix, record_.matrices[matrix].matrix);
  summary_.round = record_.round;
  summary_.block = record_.block;
  summary_.write_seconds = seconds_since(start);
  on_block_(summary_);
  record_ = {};
  summary_ = {};
}

void RootMerger::record_dense_blocks() {
  const model::Architecture& architecture = model_.architecture();
  for (std::int64_t block = 0; block < architecture.blocks; ++block) {
    if (store_.newest_round(static_cast<std::uint32_t>(block))) continue;
    store::BlockRecord record;
    record.block = static_cast<std::uint32_t>(block);
    for (std::size_t matrix = 0; matrix < architecture.matrices.size(); ++matrix) {
      store::MatrixRecord& entry = record.matrices.emplace_back();
      entry.name = model_.matrix_name(block, matrix);
      entry.pruned = false;
      entry.matrix.rows = architecture.matrices[matrix].rows;
      entry.matrix.cols = architecture.matrices[matrix].cols;
    }
    store_.write_block(record);
  }
}

std::vector<std::byte> RootMerger::provide(std::uint32_t block) const {
  const std::scoped_lock lock(store_mutex_);
  // Only rounds before this one count: a slow rank must not see what faster ones have merged meanwhile.
  std::uint32_t newest = 0;
  for (const auto& [round, index] : store_.blocks())
    if (index == block && round < plan_->round) newest = std::max(newest, round);
  return newest == 0 ? std::vector<std::byte>{} : store::encode_block(store_.read_block(newest, block));
}

}  // namespace fedspallm::app
