// SPDX-License-Identifier: Apache-2.0
#include "block_merger.hpp"

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/dtype.hpp"
#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

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

std::int64_t dropped_weights(const store::BlockRecord& record) {
  std::int64_t dropped = 0;
  for (const store::MatrixRecord& matrix : record.matrices)
    if (matrix.pruned) dropped += matrix.matrix.dropped();
  return dropped;
}

BlockMerger::BlockMerger(const model::ModelDirectory& model, const RoundPlan& plan, store::BlockFiles files,
                         int rank)
    : model_(model), plan_(plan), files_(std::move(files)), rank_(rank) {}

std::optional<WrittenBlock> BlockMerger::complete(const comm::CompletedUnit& unit) {
  const auto start = std::chrono::steady_clock::now();
  const comm::PlannedUnit& planned = plan_.exchange.units[unit.index];
  if (unit.merge != nullptr || unit.finished != nullptr)
    add_merged(unit, planned);
  else
    add_uncovered(planned);
  BlockSummary& summary = written_.summary;
  summary.weights += planned.rows * planned.cols;
  summary.merge_seconds += seconds_since(start);
  if (record_.matrices.size() < model_.architecture().matrices.size()) return std::nullopt;
  summary.round = record_.round = planned.id.round;
  summary.block = record_.block = planned.id.block;
  summary.rank = rank_;
  return finish_block();
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
  record.clients.reserve(unit.reports.size());  // there may be very many
  for (const comm::UpdateSummary& report : unit.reports)
    record.clients.push_back({report.client, report.kept, report.report});
  finished.above_target = merged.above_target;
  return finished;
}

void BlockMerger::add_merged(const comm::CompletedUnit& unit, const comm::PlannedUnit& planned) {
  const auto clients = static_cast<std::int64_t>(unit.reports.size());
  FinishedMatrix finished = finish_matrix(unit, planned, plan_.rules);
  store::MatrixRecord& record = record_.matrices.emplace_back(std::move(finished.record));
  if (plan_.rules.sparsity == 0.0 && record.histogram.front() == record.matrix.size()) {
    record.matrix.values = dense_values(model_, planned);
    record.kept_zeros = wire::count_kept_zeros(record.matrix);
  }
  BlockSummary& summary = written_.summary;
  for (const comm::UpdateSummary& report : unit.reports) {
    summary.error += report.report.error / static_cast<double>(clients);
    summary.damping_steps = std::max(summary.damping_steps, static_cast<int>(report.report.damping_steps));
  }
  summary.clients = std::max(summary.clients, clients);
  summary.dropped += record.matrix.dropped();
  summary.expanded += record.expanded;
  summary.above_target |= finished.above_target;
}

/// Nobody delivered it: it stays what the rounds before made of it.
void BlockMerger::add_uncovered(const comm::PlannedUnit& planned) {
  if (written_.uncovered.empty()) written_.uncovered = planned.name;
  if (const auto previous = files_.newest(planned.id.block)) {
    const store::MatrixRecord& kept = record_.matrices.emplace_back(previous->matrices.at(planned.id.matrix));
    if (kept.pruned) written_.summary.dropped += kept.matrix.dropped();
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
bool BlockMerger::lacks_clients_of(const store::BlockRecord& before) const {
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

bool BlockMerger::written_before() {
  if (!files_.has_block(record_.round, record_.block)) return false;
  store::BlockRecord before;
  try {
    before = files_.read_block(record_.round, record_.block, store::Votes::skip);
  } catch (const DataError&) {
    return false;  // damaged: it is replaced
  }
  if (lacks_clients_of(before)) {
    written_.summary.dropped = dropped_weights(before);
    return true;
  }
  check<CheckFailed>(
      store::encode_block(before) == store::encode_block(record_),
      fmt::format("{}: block {} of round {} comes out otherwise than an earlier start of this run wrote it, "
                  "although nothing that decides it has changed; keep the folder, and report this",
                  files_.block_file(record_.round, record_.block).string(), record_.block, record_.round));
  return true;
}

WrittenBlock BlockMerger::finish_block() {
  const auto start = std::chrono::steady_clock::now();
  BlockSummary& summary = written_.summary;
  if (summary.clients > 0) {  // else the block stays what it was
    summary.recomputed = written_before();
    if (!summary.recomputed) written_.entry = files_.write_file(record_);
  }
  summary.write_seconds = seconds_since(start);
  writing_seconds_ += summary.write_seconds;
  record_ = {};
  return std::exchange(written_, {});
}

}  // namespace fedspallm::app
