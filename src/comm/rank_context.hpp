// SPDX-License-Identifier: Apache-2.0
// Purpose: what the parts of one rank's exchange share. All of it outlives them.
#pragma once

#include "due_list.hpp"
#include "link.hpp"
#include "plan_index.hpp"
#include "threads.hpp"
#include <atomic>
#include <chrono>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fedspallm::comm {

/// What client threads may ask about a running exchange. Thread-safe.
class Facts {
 public:
  void set_durable_block(std::uint32_t block) { durable_block_ = block; }
  [[nodiscard]] std::uint32_t durable_block() const { return durable_block_; }

  void set_stopped_at(std::uint32_t block) {
    const std::lock_guard lock(mutex_);
    stopped_at_ = block;
  }
  [[nodiscard]] std::optional<std::uint32_t> stopped_at() const {
    const std::lock_guard lock(mutex_);
    return stopped_at_;
  }

  void add_dropped(Dropped dropped) {
    const std::lock_guard lock(mutex_);
    dropped_[dropped.client] = std::move(dropped);
  }
  [[nodiscard]] std::vector<Dropped> dropped() const {
    const std::lock_guard lock(mutex_);
    std::vector<Dropped> all;
    for (const auto& [client, dropped] : dropped_) all.push_back(dropped);
    return all;
  }

 private:
  std::atomic<std::uint32_t> durable_block_{0};
  mutable std::mutex mutex_;
  std::optional<std::uint32_t> stopped_at_;
  std::map<std::uint32_t, Dropped> dropped_;  // by client
};

struct RankContext {
  const PlanIndex& plan;
  const ExchangeOptions& options;
  std::string rank_name;  // "rank 1 on node17"
  Link& link;             // communication thread only
  Desk& desk;
  Gate& gate;
  DueList& due;
  Facts& facts;
  Gauge& merge_memory;
  std::atomic<std::int64_t>& merging_nanoseconds;
  std::atomic<std::int64_t>& making_nanoseconds;
  LinkCounters& counters;
  DeviceTransport* device = nullptr;  // nccl
  /// Nothing is on its way to or from this rank.
  [[nodiscard]] bool idle() const {
    return link.idle() && (device == nullptr || device->link == nullptr || device->link->idle());
  }
};

/// Adds its own life time to a counter of nanoseconds, or (sign = -1) takes it out.
class ScopedTime {
 public:
  explicit ScopedTime(std::atomic<std::int64_t>& total, std::int64_t sign = 1) : total_(total), sign_(sign) {}
  ~ScopedTime() {
    const auto spent = std::chrono::steady_clock::now() - start_;
    total_ += sign_ * std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count();
  }
  ScopedTime(const ScopedTime&) = delete;
  ScopedTime& operator=(const ScopedTime&) = delete;

 private:
  std::atomic<std::int64_t>& total_;
  std::int64_t sign_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// A merge state, counted in the memory gauge while it lives.
class CountedMerge {
 public:
  /// @param on_device  the tiles are elsewhere, and counted all the same: only the diagonal's sums are here
  CountedMerge(const PlannedUnit& unit, aggregate::FixedPoint scale, aggregate::FixedPoint diagonal_scale,
               Gauge& gauge, bool on_device = false)
      : merge_(on_device ? 0 : unit.rows, unit.cols, scale, diagonal_scale),
        gauge_(gauge),
        bytes_(merge_bytes(unit)) {
    gauge_.add(bytes_);
  }
  /// Sums in memory that is counted elsewhere.
  CountedMerge(aggregate::PartialMerge lent, Gauge& gauge) : merge_(std::move(lent)), gauge_(gauge) {}
  ~CountedMerge() { gauge_.subtract(bytes_); }
  CountedMerge(const CountedMerge&) = delete;
  CountedMerge& operator=(const CountedMerge&) = delete;
  [[nodiscard]] aggregate::PartialMerge& merge() { return merge_; }

  /// Adds several clients' updates in one pass over the tiles.
  void add(std::span<const wire::MatrixUpdate> updates) {
    std::vector<const wire::PackedMatrix*> matrices;
    for (const wire::MatrixUpdate& update : updates) matrices.push_back(&update.matrix);
    merge_.add(matrices);
    for (const wire::MatrixUpdate& update : updates) {
      if (!update.hessian_diagonal.empty()) merge_.add_diagonal(update.hessian_diagonal);
    }
  }

 private:
  aggregate::PartialMerge merge_;
  Gauge& gauge_;
  std::int64_t bytes_ = 0;
};

}  // namespace fedspallm::comm
