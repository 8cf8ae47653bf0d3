// SPDX-License-Identifier: Apache-2.0
// Purpose: the thread of one rank's watchdog. It owns all connections, sends this rank's report to each of
// them at every beat of the clock, hears the others, and acts on the monitor's judgement. One thread however
// many ranks there are. Non-goals: MPI, the judgement itself (watchdog_monitor.hpp).
#pragma once

#include "watchdog_roster.hpp"
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace fedspallm::comm::watchdog {

/// What all ranks agreed on, and who this one is.
struct Job {
  int rank = 0;
  Roster roster;
  std::vector<int> hubs;
  Tokens tokens;
  WatchdogOptions options;
  Watchdog::OnLost on_lost;
};

class Watcher {
 public:
  /// Starts the thread. @param listener  on hubs of more than one rank
  Watcher(Job job, std::optional<Listener> listener);
  /// Closes all connections; without finish() or leave() before, the others take this for a loss.
  ~Watcher();
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  /// Takes over a connection to a hub.
  void adopt(int hub, Link link);
  /// Why callers are kept waiting; "" = they are not.
  [[nodiscard]] std::string refusal();
  /// No further connection will come.
  void everybody_is_here();
  void beat(std::uint16_t phase, std::int64_t block);
  /// Watchdog::failure_known().
  void failure_known();
  /// Waits until every rank came here. @param error  nothing = a good end
  void finish(const std::optional<std::string>& error);
  /// Watchdog::stop().
  void stop(const std::string& why);
  /// Says goodbye without waiting for anybody: nothing began.
  void leave();

 private:
  struct Peer {
    Link link;
    int rank = -1;  // -1 = it has not said yet
    double since = 0;
    bool broken = false;
  };
  /// What other threads ask of this one; the only state that they share.
  struct Shared {
    State state = State::working;
    bool failure_known = false;
    std::string error;
    std::uint16_t phase = 0;
    std::int64_t block = -1;
    std::uint64_t beats = 0;
    double last_beat = 0;  // steady clock
    std::vector<std::pair<int, Link>> adopted;
    bool everybody_is_here = false;
    bool leaving = false;
    bool stopping = false;
    // This thread's answers:
    bool done = false;
    std::string refusal;
  };
  enum class Next { go_on, end };

  void run();
  void wait_for_events();
  void take_orders();
  void accept_callers();
  void read_peers();
  void read_peer(Peer& peer);
  void handle(Peer& peer, const Frame& frame);
  void welcome(Peer& peer, const Frame& frame);
  void drop_broken();
  void send_report();
  [[nodiscard]] Next decide();
  void part();
  [[noreturn]] void conclude(const Verdict& verdict, bool speak);
  void kill_remains(int rank) const;
  [[nodiscard]] bool is_hub(int rank) const;
  void change(const std::function<void(Shared&)>& action);
  void wake();

  const Job job_;
  const double interval_;  // seconds between reports
  std::mutex mutex_;
  std::condition_variable changed_;
  Shared shared_;
  Socket wake_;  // an eventfd

  // Of the thread alone:
  std::optional<Listener> listener_;
  double next_accept_ = 0;  // after one that failed
  AwakeClock clock_;
  Monitor monitor_;
  std::vector<Peer> peers_;
  std::optional<Verdict> told_;  // a hub said that the job ends
  bool done_ = false;            // a hub said that all are finished
  bool leaving_ = false, stopping_ = false;
  Report report_;
  std::string error_;
  std::uint64_t beats_ = 0;
  double progress_ = 0;  // awake time of the last beat
  double last_report_ = 0, next_report_ = 0;
  Report reported_;

  std::jthread thread_;  // last: it uses the others
};

}  // namespace fedspallm::comm::watchdog
