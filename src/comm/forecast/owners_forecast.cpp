// SPDX-License-Identifier: Apache-2.0
// Bytes that a rank sends in the topology `owners`, message by message as owners.hpp has them. Clients' kept
// weights are taken as spread evenly over a matrix.
#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/rounding.hpp"
#include "fedspallm/comm/cost_model.hpp"

#include "../messages.hpp"
#include "../owners/slice_plan.hpp"
#include "../tree_sum.hpp"
#include "forecast_parts.hpp"
#include <cmath>

namespace fedspallm::comm {

namespace {

/// What one rank sends of one unit.
class UnitForecast {
 public:
  UnitForecast(const ExchangePlan& plan, std::size_t index, const ExchangeOptions& options, int rank,
               int ranks)
      : plan_(plan),
        unit_(plan.units[index]),
        index_(index),
        options_(options),
        rank_(rank),
        ranks_(ranks),
        writer_(writer_of(unit_, options, ranks)),
        clients_(clients_by_rank(plan, unit_)) {}

  [[nodiscard]] std::int64_t bytes() const { return control() + slices() + asks() + sums() + results(); }

 private:
  [[nodiscard]] std::int64_t clients_on(int rank) const {
    const auto found = clients_.find(rank);
    return found == clients_.end() ? 0 : found->second;
  }
  [[nodiscard]] std::int64_t all_clients() const { return std::ssize(unit_.clients); }
  [[nodiscard]] std::int64_t whole() const { return unit_.rows * unit_.cols; }

  /// Of `kept` weights of the matrix, those in the owner's slice.
  [[nodiscard]] std::int64_t share(std::int64_t kept, int owner) const {
    const aggregate::Slice slice = slice_of(unit_, options_, owner, ranks_);
    return evenly_before(unit_, kept, slice.end) - evenly_before(unit_, kept, slice.begin);
  }
  [[nodiscard]] std::int64_t size_of_slice(int owner) const {
    return slice_of(unit_, options_, owner, ranks_).size();
  }
  [[nodiscard]] std::int64_t sent_slice(int owner) const {
    const std::int64_t kept = unit_.expected_kept >= 0 ? unit_.expected_kept : whole();
    return wire::encoded_bytes(size_of_slice(owner), 1, share(kept, owner), unit_.dtype, false);
  }

  /// To and from the root.
  [[nodiscard]] std::int64_t control() const {
    std::int64_t bytes = 0;
    if (rank_ == 0) bytes += (ranks_ - 1) * message_bytes(SliceMessage());
    if (rank_ == 0 && writer_ != 0) bytes += announce_bytes(all_clients());
    if (rank_ != 0 && clients_on(rank_) > 0) bytes += announce_bytes(clients_on(rank_));
    if (rank_ != 0 && writer_ == rank_) bytes += message_bytes(WrittenMessage());
    return bytes;
  }

  /// Own clients' slices to the other owners, offers before them.
  [[nodiscard]] std::int64_t slices() const {
    const std::int64_t own = clients_on(rank_);
    std::int64_t bytes = 0;
    for (int owner = 0; owner < ranks_ && own > 0; ++owner)
      if (owner != rank_ && size_of_slice(owner) > 0)
        bytes += own * sent_slice(owner) +
                 message_bytes(OfferMessage{0, std::vector<std::int64_t>(static_cast<std::size_t>(own))});
    return bytes;
  }

  /// What this rank asks other ranks for.
  [[nodiscard]] std::int64_t asks() const {
    if (size_of_slice(rank_) == 0) return 0;
    const std::int64_t per_batch = std::max<std::int64_t>(1, batch_bytes(options_) / sent_slice(rank_));
    std::int64_t batches = 0;
    for (const auto& [rank, clients] : clients_)
      if (rank != rank_) batches += divide_up(clients, per_batch);
    return batches * message_bytes(AskMessage());
  }

  /// Up the tree once, down it to each child.
  [[nodiscard]] std::int64_t sums() const {
    std::vector<std::int64_t> lengths = aggregate::sums_of_finishing(options_.rules, all_clients(), ranks_);
    if (unit_.with_diagonal && unit_.diagonal_unit == index_) lengths.push_back(unit_.cols);
    const std::int64_t messages = (rank_ == 0 ? 0 : 1) + std::ssize(children_of(rank_, ranks_));
    std::int64_t bytes = 0;
    for (const std::int64_t length : lengths)
      bytes += messages * (message_bytes(SumMessage()) + length * std::int64_t{sizeof(std::int64_t)});
    return bytes;
  }

  /// Kept weights after the merge; without mask expansion as if clients chose independently.
  [[nodiscard]] std::int64_t merged_kept() const {
    const aggregate::MergeRules& rules = options_.rules;
    if (rules.expand && rules.group > 0) return whole() / rules.group * rules.keep;
    if (rules.expand) return whole() - exact_count(rules.sparsity, whole());
    if (unit_.expected_kept < 0) return whole();
    const double dropped = 1 - static_cast<double>(unit_.expected_kept) / static_cast<double>(whole());
    const double kept = 1 - std::pow(dropped, static_cast<double>(all_clients()));
    return static_cast<std::int64_t>(std::llround(kept * static_cast<double>(whole())));
  }

  /// Finished slices to the writer.
  [[nodiscard]] std::int64_t results() const {
    if (rank_ != writer_)
      return size_of_slice(rank_) == 0
                 ? 0
                 : message_bytes(ResultMessage()) +
                       result_bytes(unit_, size_of_slice(rank_), share(merged_kept(), rank_), all_clients());
    std::int64_t owners = 0;
    for (int owner = 0; owner < ranks_; ++owner)
      if (owner != rank_ && size_of_slice(owner) > 0) ++owners;
    return owners * message_bytes(TakeMessage());
  }

  const ExchangePlan& plan_;
  const PlannedUnit& unit_;
  std::size_t index_;
  const ExchangeOptions& options_;
  int rank_, ranks_, writer_;
  std::map<int, std::int64_t> clients_;
};

}  // namespace

std::int64_t forecast_owners(const PlanIndex& index, const ExchangeOptions& options, int rank, int ranks) {
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < index.size(); ++i) {
    bytes += UnitForecast(index.plan(), i, options, rank, ranks).bytes();
    const bool ends_block = index.block_of(i + 1) != index.block_of(i);
    if (rank == 0 && ends_block) bytes += (ranks - 1) * message_bytes(DurableMessage());
  }
  return bytes;
}

}  // namespace fedspallm::comm
