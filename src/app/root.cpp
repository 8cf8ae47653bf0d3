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
                       store::ModelWriter* writer, bool coverage_required, Hooks hooks)
    : model_(model),
      store_(store),
      writer_(writer),
      coverage_required_(coverage_required),
      hooks_(std::move(hooks)) {}

void RootMerger::begin_round(const RoundPlan& plan) {
  plan_ = &plan;
}

void RootMerger::complete(const comm::CompletedUnit& unit) {
  require(plan_ != nullptr && writer_ != nullptr,
          "RootMerger::complete: begin_round first, with a model writer");
  const auto start = std::chrono::steady_clock::now();
  const comm::PlannedUnit& planned = plan_->exchange.units[unit.index];
  if (unit.merge != nullptr || unit.finished != nullptr)
    add_merged(unit, planned);
  else
    add_uncovered(planned);
  summary_.weights += planned.rows * planned.cols;
  summary_.merge_seconds += seconds_since(start);
  if (record_.matrices.size() == model_.architecture().matrices.size()) {
    record_.round = planned.id.round;
    record_.block = planned.id.block;
    finish_block();
  }
}

FinishedMatrix finish_matrix(const comm::CompletedUnit& unit, const comm::PlannedUnit& planned,
                             const aggregate::MergeRules& rules) {
  const auto clients = static_cast<std::int64_t>(unit.reports.size());
  aggregate::MergedMatrix merged =
      unit.finished != nullptr
          ? std::move(*unit.finished)  // by its owners, by the same rules
          : aggregate::finish(*unit.merge, clients, rules, planned.dtype, unit.diagonal_sums);
  FinishedMatrix finished;
  store::MatrixRecord& record = finished.record;
  record.name = planned.name;
  record.matrix = std::move(merged.matrix);
  record.votes = std::move(merged.votes);
  record.histogram = std::move(merged.histogram);
  record.target = merged.target;
  record.common_zeros = merged.common_zeros;
  record.expanded = merged.expanded;
  record.kept_zeros = merged.kept_zeros;
  record.keep = rules.expand ? rules.keep : 0;
  record.group = rules.expand ? rules.group : 0;
  for (const comm::ClientReport& report : unit.reports)
    record.clients.push_back({report.client, report.kept, report.report});
  finished.above_target = merged.above_target;
  return finished;
}

void RootMerger::add_merged(const comm::CompletedUnit& unit, const comm::PlannedUnit& planned) {
  const auto clients = static_cast<std::int64_t>(unit.reports.size());
  FinishedMatrix finished = finish_matrix(unit, planned, plan_->rules);
  store::MatrixRecord& record = record_.matrices.emplace_back(std::move(finished.record));
  if (plan_->rules.sparsity == 0.0 && record.histogram.front() == record.matrix.size()) {
    record.matrix.values = dense_values(model_, planned);
    record.kept_zeros = wire::count_kept_zeros(record.matrix);
  }
  for (const comm::ClientReport& report : unit.reports) {
    summary_.error += report.report.error / static_cast<double>(clients);
    summary_.damping_steps = std::max(summary_.damping_steps, static_cast<int>(report.report.damping_steps));
  }
  summary_.clients = std::max(summary_.clients, clients);
  summary_.dropped += record.matrix.dropped();
  summary_.expanded += record.expanded;
  summary_.above_target |= finished.above_target;
}

/// Nobody delivered it: it stays what the rounds before made of it.
void RootMerger::add_uncovered(const comm::PlannedUnit& planned) {
  if (hooks_.before_block) hooks_.before_block();  // also says who was dropped
  check<DataError>(!coverage_required_,
                   fmt::format("{}: all clients that should prune it were dropped; more clients, or "
                               "federation.coverage = \"warn\", which leaves it as it is",
                               planned.name));
  const std::scoped_lock lock(store_mutex_);
  if (const auto previous = store_.newest(planned.id.block)) {
    record_.matrices.push_back(previous->matrices.at(planned.id.matrix));
    summary_.dropped += record_.matrices.back().matrix.dropped();
    return;
  }
  store::MatrixRecord& record = record_.matrices.emplace_back();
  record.name = planned.name;
  record.pruned = false;
  record.matrix.rows = planned.rows;
  record.matrix.cols = planned.cols;
}

/// Whether clients took part in the block when it was written that now are left out: such that were late in
/// the middle of it (then or now), or whose text is gone since. It cannot come out the same, and what is on
/// disk counts.
bool RootMerger::lacks_clients_of(const store::BlockRecord& before) const {
  bool lacks = false;
  for (std::size_t matrix = 0; matrix < record_.matrices.size() && matrix < before.matrices.size();
       ++matrix) {
    const auto& now = record_.matrices[matrix].clients;
    for (const store::ClientPart& part : before.matrices[matrix].clients)
      lacks |= std::none_of(now.begin(), now.end(),
                            [&](const store::ClientPart& other) { return other.client == part.client; });
  }
  return lacks;
}

bool RootMerger::written_before() {
  if (!store_.has_block(record_.round, record_.block)) return false;
  store::BlockRecord before;
  try {
    before = store_.read_block(record_.round, record_.block);
  } catch (const DataError&) {
    return false;  // damaged: it is replaced
  }
  if (lacks_clients_of(before)) {
    record_ = std::move(before);
    summary_.dropped = 0;
    for (const store::MatrixRecord& matrix : record_.matrices)
      summary_.dropped += matrix.pruned ? matrix.matrix.dropped() : 0;
    return true;
  }
  check<CheckFailed>(
      store::encode_block(before) == store::encode_block(record_),
      fmt::format("{}: block {} of round {} comes out otherwise than an earlier start of this run wrote it, "
                  "although nothing that decides it has changed; keep the folder, and report this",
                  store_.block_file(record_.round, record_.block).string(), record_.block, record_.round));
  return true;
}

void RootMerger::finish_block() {
  const auto start = std::chrono::steady_clock::now();
  const bool pruned = summary_.clients > 0;
  if (pruned) {
    if (hooks_.before_block) hooks_.before_block();
    const std::scoped_lock lock(store_mutex_);
    summary_.recomputed = written_before();
    if (!summary_.recomputed) store_.write_block(record_);
  }
  for (std::size_t matrix = 0; matrix < record_.matrices.size() && pruned; ++matrix)
    if (record_.matrices[matrix].pruned)
      writer_->write_matrix(record_.block, matrix, record_.matrices[matrix].matrix);
  summary_.round = record_.round;
  summary_.block = record_.block;
  summary_.write_seconds = seconds_since(start);
  hooks_.after_block(summary_);
  record_ = {};
  summary_ = {};
}

std::uint32_t RootMerger::newest_round_before(std::uint32_t block, store::Position position) const {
  std::uint32_t newest = 0;
  for (const auto& [round, index] : store_.blocks())
    if (index == block && store::Position{round, index} < position) newest = std::max(newest, round);
  return newest;
}

void RootMerger::replay(store::Position start,
                        const std::function<void(const store::BlockRecord&)>& on_record) {
  for (std::int64_t block = 0; block < model_.architecture().blocks; ++block) {
    const auto index = static_cast<std::uint32_t>(block);
    const std::uint32_t newest = newest_round_before(index, start);
    if (newest == 0) continue;
    const store::BlockRecord record = store_.read_block(newest, index);
    for (std::size_t matrix = 0; matrix < record.matrices.size(); ++matrix)
      if (record.matrices[matrix].pruned)
        writer_->write_matrix(block, matrix, record.matrices[matrix].matrix);
    on_record(record);
  }
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
  const std::uint32_t newest = newest_round_before(block, {plan_->round, 0});
  return newest == 0 ? std::vector<std::byte>{} : store::encode_block(store_.read_block(newest, block));
}

}  // namespace fedspallm::app
