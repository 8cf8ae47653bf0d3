// SPDX-License-Identifier: Apache-2.0
#include "watchdog_monitor.hpp"

#include <algorithm>
#include <limits>
#include <tuple>

namespace fedspallm::comm::watchdog {

namespace {
bool at_work(State state) {
  return state == State::working || state == State::told;
}
}  // namespace

double AwakeClock::tick(double steady_now) {
  now_ += std::clamp(steady_now - last_, 0.0, longest_step_);
  last_ = steady_now;
  return now_;
}

Monitor::Monitor(std::span<const int> ranks, const Limits& limits, double first_contact) : limits_(limits) {
  require(limits.lost > 0 && limits.stuck > 0 && limits.succession >= 0, "Monitor: limits are positive");
  for (const int rank : ranks) {
    Entry& entry = ranks_[rank];
    entry.heard = first_contact;
    entry.progress = first_contact;
  }
}

void Monitor::heard(int rank, const Report& report, double now) {
  const auto found = ranks_.find(rank);
  if (found == ranks_.end()) return;
  Entry& entry = found->second;
  entry.heard = now;
  entry.report = report;
  entry.progress = now - report.idle;
  if (report.state == State::failed && !entry.failed) entry.failed = now;
  if (report.state == State::stopped && !entry.stopped) entry.stopped = now;
}

void Monitor::failure_text(int rank, const std::string& text) {
  if (const auto found = ranks_.find(rank); found != ranks_.end()) found->second.error = text;
}

void Monitor::closed(int rank, double now) {
  const auto found = ranks_.find(rank);
  if (found != ranks_.end() && !found->second.closed) found->second.closed = now;
}

void Monitor::said_goodbye(int rank) {
  if (const auto found = ranks_.find(rank); found != ranks_.end()) found->second.gone = true;
}

std::optional<double> Monitor::lost_since(const Entry& entry, double now) const {
  if (entry.gone) return std::nullopt;
  if (entry.closed) return entry.closed;
  if (now - entry.heard > limits_.lost) return entry.heard + limits_.lost;
  return std::nullopt;
}

int Monitor::in_charge(std::span<const int> hubs, int self, double now) const {
  std::optional<double> vacant;  // since when the hub before has been lost
  for (const int hub : hubs) {
    if (hub == self) return self;
    const auto found = ranks_.find(hub);
    require(found != ranks_.end(), "in_charge: every other hub is watched");
    const std::optional<double> lost = lost_since(found->second, now);
    if (lost) {
      vacant = std::max(vacant.value_or(*lost), *lost);
    } else if (vacant && now - *vacant > limits_.succession) {
      *vacant += limits_.succession;  // it had its time to speak; so has the next one from here on
    } else {
      return hub;
    }
  }
  return -1;
}

std::optional<Verdict> Monitor::judge(double now) const {
  if (auto verdict = stopped_one(now)) return verdict;
  if (auto verdict = closed_one(now)) return verdict;
  if (auto verdict = silent_one(now)) return verdict;
  if (auto verdict = failed_one(now)) return verdict;
  return stuck_one(now);
}

std::optional<Verdict> Monitor::stopped_one(double now) const {
  std::optional<Verdict> verdict;
  double first = std::numeric_limits<double>::infinity();
  for (const auto& [rank, entry] : ranks_) {
    if (entry.gone || !entry.stopped || *entry.stopped >= first) continue;
    first = *entry.stopped;
    verdict = Verdict{Loss::Cause::stopped, rank, entry.report, now - first, entry.error};
  }
  return verdict;
}

std::optional<Verdict> Monitor::closed_one(double now) const {
  std::optional<Verdict> verdict;
  double first = std::numeric_limits<double>::infinity();
  for (const auto& [rank, entry] : ranks_) {
    if (entry.gone || !entry.closed || *entry.closed >= first) continue;
    first = *entry.closed;
    // A rank that told its error before it went is named with the error.
    const auto cause = entry.failed ? Loss::Cause::failed : Loss::Cause::closed;
    verdict = Verdict{cause, rank, entry.report, std::max(0.0, now - entry.heard), entry.error};
  }
  return verdict;
}

std::optional<Verdict> Monitor::silent_one(double now) const {
  std::optional<Verdict> verdict;
  double longest = limits_.lost;
  for (const auto& [rank, entry] : ranks_) {
    const double silence = now - entry.heard;
    if (entry.gone || silence <= longest) continue;
    longest = silence;
    verdict = Verdict{Loss::Cause::silent, rank, entry.report, silence, {}};
  }
  return verdict;
}

std::optional<Verdict> Monitor::failed_one(double now) const {
  const bool shared = std::all_of(ranks_.begin(), ranks_.end(), [](const auto& item) {
    return item.second.gone || item.second.report.state != State::working;
  });
  if (shared) return std::nullopt;
  std::optional<Verdict> verdict;
  double first = now - limits_.lost;
  for (const auto& [rank, entry] : ranks_) {
    if (entry.gone || !entry.failed || *entry.failed >= first) continue;
    first = *entry.failed;
    verdict = Verdict{Loss::Cause::failed, rank, entry.report, now - first, entry.error};
  }
  return verdict;
}

std::optional<Verdict> Monitor::stuck_one(double now) const {
  const Entry* blamed = nullptr;
  int blamed_rank = 0;
  for (const auto& [rank, entry] : ranks_) {
    if (entry.gone) continue;
    if (now - entry.progress <= limits_.stuck) return std::nullopt;  // somebody makes progress
    if (!at_work(entry.report.state)) continue;
    const auto place = [](const Entry& of) {
      return std::tuple(of.report.phase, of.report.block, of.progress);
    };
    if (blamed != nullptr && place(entry) >= place(*blamed)) continue;
    blamed = &entry;
    blamed_rank = rank;
  }
  if (blamed == nullptr) return std::nullopt;
  return Verdict{Loss::Cause::stuck, blamed_rank, blamed->report, now - blamed->progress, {}};
}

bool Monitor::all_finishing() const {
  return std::all_of(ranks_.begin(), ranks_.end(),
                     [](const auto& item) { return item.second.gone || !at_work(item.second.report.state); });
}

}  // namespace fedspallm::comm::watchdog
