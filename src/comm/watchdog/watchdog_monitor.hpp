// SPDX-License-Identifier: Apache-2.0
// Purpose: the watchdog's judgement: from what was heard of the ranks and when, who is lost, failed or stuck,
// and which hub says so. Times are seconds of a clock that is passed in. Non-goals: sockets, threads, clocks.
#pragma once

#include "fedspallm/comm/watchdog.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::comm::watchdog {

/// `told`: at work as before, but it knows of the error with which the others leave.
enum class State : std::uint8_t { working = 0, finishing = 1, failed = 2, stopped = 3, told = 4 };

/// What a rank says of itself.
struct Report {
  State state = State::working;
  std::uint16_t phase = 0;  // index in WatchdogOptions::phases
  std::int64_t block = -1;
  double idle = 0;  // seconds since it last made progress

  bool operator==(const Report&) const = default;
};

/// Why the job has to end.
struct Verdict {
  Loss::Cause cause = Loss::Cause::silent;
  int rank = 0;
  Report place;
  double seconds = 0;  // since the last sign of life; stuck: since that rank's last progress
  std::string text;    // failed: the error's message; stopped: why

  bool operator==(const Verdict&) const = default;
};

struct Limits {
  double lost = 30;
  double stuck = 600;
  /// A hub that was left in charge and says nothing for so long is taken for lost as well.
  double succession = 2;
};

/// Time that excludes what this process slept through (a suspended job, a stopped process): each step counts
/// at most `longest_step` seconds, so that nobody is judged for a time in which nobody listened.
class AwakeClock {
 public:
  AwakeClock(double steady_now, double longest_step) : last_(steady_now), longest_step_(longest_step) {}
  /// Called regularly, more often than `longest_step`. @return the time now
  double tick(double steady_now);
  [[nodiscard]] double now() const { return now_; }

 private:
  double last_;
  double longest_step_;
  double now_ = 0;
};

/// What one rank knows of the ranks that it hears.
class Monitor {
 public:
  /// @param first_contact  time by which each of `ranks` will have been heard for the first time; its silence
  /// counts from there
  Monitor(std::span<const int> ranks, const Limits& limits, double first_contact);

  /// Of ranks that are not watched nothing is kept.
  void heard(int rank, const Report& report, double now);
  /// The message of the error with which the rank leaves, or why it stops; its report has state failed or
  /// stopped.
  void failure_text(int rank, const std::string& text);
  /// Its connection ended. After said_goodbye() this is no loss.
  void closed(int rank, double now);
  void said_goodbye(int rank);

  /// The hub that is in charge as `self` sees it: the first of `hubs` that is not lost; -1 = none is left.
  [[nodiscard]] int in_charge(std::span<const int> hubs, int self, double now) const;
  /// What whoever is in charge must announce, if anything: a rank that stops before a closed connection
  /// before silence before an error before no progress.
  [[nodiscard]] std::optional<Verdict> judge(double now) const;
  /// Every watched rank came to the end of its work or said goodbye.
  [[nodiscard]] bool all_finishing() const;

 private:
  struct Entry {
    double heard = 0;
    Report report;
    double progress = 0;  // time of its last progress
    std::optional<double> closed;
    std::optional<double> failed;
    std::optional<double> stopped;
    std::string error;
    bool gone = false;
  };
  [[nodiscard]] std::optional<double> lost_since(const Entry& entry, double now) const;
  [[nodiscard]] std::optional<Verdict> stopped_one(double now) const;
  [[nodiscard]] std::optional<Verdict> closed_one(double now) const;
  [[nodiscard]] std::optional<Verdict> silent_one(double now) const;
  [[nodiscard]] std::optional<Verdict> failed_one(double now) const;
  [[nodiscard]] std::optional<Verdict> stuck_one(double now) const;

  Limits limits_;
  std::map<int, Entry> ranks_;
};

}  // namespace fedspallm::comm::watchdog
