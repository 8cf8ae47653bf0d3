// SPDX-License-Identifier: Apache-2.0
// Purpose: signals as requests (design.md section 5, rulings.md 23). SIGTERM, SIGUSR2, SIGINT: stop at the
// next boundary that all ranks agree on; SIGUSR1: save there and go on; a second SIGINT or SIGTERM: leave at
// once. They are blocked in every thread and taken by one thread of ours, so nothing runs in a signal
// handler. Non-goal: how ranks agree (comm/exchange.hpp).
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>

namespace fedspallm::app {

class Signals {
 public:
  /// What a signal asks of the work that is going on now; any may be empty. Called on the signals' thread.
  struct Listener {
    std::function<void()> stop;
    std::function<void()> save;
  };

  /// Blocks the signals for this thread and all it starts from now on: construct before MPI and thread pools.
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  /// Seconds from the first stop until the process leaves at once, as after a second one: a client thread may
  /// be in a block that takes far longer.
  void set_grace(double seconds) { grace_seconds_ = seconds; }
  /// The signal that asked for a stop, e.g. "SIGTERM"; "" = none.
  [[nodiscard]] std::string stop_signal() const;
  /// Replaces the listener, and tells a new one at once of a stop that came before.
  void listen(Listener listener);

  /// Takes the other ranks along when this process leaves at once: called on the signals' thread with what a
  /// person is told; it may end the process, which ends by itself when the call returns.
  using Leaving = std::function<void(const std::string& why)>;
  /// Sets it for as long as this lives; its end waits for a call in progress.
  class [[nodiscard]] Companions {
   public:
    Companions(Signals& signals, Leaving leaving);
    ~Companions();
    Companions(const Companions&) = delete;
    Companions& operator=(const Companions&) = delete;

   private:
    Signals& signals_;
  };

 private:
  void run(const std::stop_token& token);
  void take(int signal);
  void set_leaving(Leaving leaving);
  [[noreturn]] void leave(const std::string& why);

  std::atomic<double> grace_seconds_{30};
  std::atomic<int> stop_signal_{0};
  std::mutex mutex_;  // of the listener and leaving_
  Listener listener_;
  Leaving leaving_;
  std::jthread thread_;
};

}  // namespace fedspallm::app
