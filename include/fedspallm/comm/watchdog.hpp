// SPDX-License-Identifier: Apache-2.0
// Purpose: a lost or stuck rank ends the whole job in bounded time and is named once (rulings.md 23, 24).
// Every rank has a thread that sends heartbeats over TCP, outside MPI, to a few hubs (rank 0 and deputies on
// other hosts). A rank is
//   lost    when no heartbeat came for `lost_seconds` (stopped, network down), or at once when its connection
//           closes without a goodbye (killed, crashed, an exception that ended the process);
//   failed  when it left with an error that not all ranks came to know of within `lost_seconds`;
//   stuck   when no rank of the job made progress for `stuck_seconds`. A healthy rank may wait long for
//           another one, so waiting alone is no fault: the one blamed is the rank whose place is earliest in
//           the work, of several such the one that beat last the longest ago.
// Then the lowest living hub prints one message, all ranks are told, survivors on the same node SIGKILL what
// is left of the blamed process, and every process calls on_lost and leaves by _exit(6), without MPI.
// A rank that has to stop at once takes the others along in the same way, with status 75 (stop()).
// Non-goals: checkpointing, restarting, secrecy (the token only keeps strangers' connections out).
#pragma once

#include "fedspallm/base/error.hpp"
#include "fedspallm/comm/communicator.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fedspallm::comm {

/// The same on all ranks.
struct WatchdogOptions {
  /// Names of the parts of the work, in the order of the work; every rank starts in the first. A part that is
  /// come back to has a name for each time ("dense evaluation", "evaluation").
  std::vector<std::string> phases;
  double lost_seconds = 30;  // 0 = no watchdog: nobody is judged, no socket is opened
  double stuck_seconds = 600;
  /// Each rank has so long to reach each hub, in the constructor.
  double connect_seconds = 20;
  /// Ends the message.
  std::string advice =
      "Start the same command again: the run goes on from its last finished block. If the same rank or host "
      "is named again, leave that host out.";
};

/// Why the job ends.
struct Loss {
  enum class Cause : std::uint8_t { silent, closed, failed, stuck, stopped };
  Cause cause = Cause::silent;
  int rank = 0;
  std::string host;
  std::string phase;        // the last known place of that rank
  std::int64_t block = -1;  // -1 = none
  double seconds = 0;       // since its last sign of life, or of progress (stuck)
  std::string message;      // the whole text that a person reads
  bool told_here = false;   // this rank printed the message

  /// With which every process ends.
  [[nodiscard]] ExitStatus status() const {
    return cause == Cause::stopped ? ExitStatus::stopped : ExitStatus::peer_lost;
  }
};

class Watchdog {
 public:
  /// Called once, on a thread of its own, when the job ends by this watchdog: write down what happened
  /// (status.json). It has 1 second, then the process ends; it must not call MPI. Exceptions are ignored.
  using OnLost = std::function<void(const Loss&)>;

  /// Collective. In a world of one rank no socket is opened, and only `stuck` can happen.
  /// @pre phases is not empty; 0 <= lost_seconds <= stuck_seconds; connect_seconds > 0
  /// @throws Error with status started_wrongly, on every rank, when one of them cannot reach a hub; it names
  /// the addresses tried
  Watchdog(Communicator& communicator, WatchdogOptions options, OnLost on_lost);
  /// Without finish() this rank counts as lost at once: an exception that passes by ends the job. So keep it
  /// outside of the try block whose errors all ranks share.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// This rank is here now; counts as progress. From any thread, cheap enough for each piece of a block. Call
  /// it when a piece begins and when it is done, before waiting for other ranks: who waits is then not taken
  /// for the stuck one.
  /// @param block  counted over all rounds; -1 = none
  /// @pre phase is one of options.phases
  void beat(std::string_view phase, std::int64_t block = -1);

  /// This rank has heard of the error with which all leave, though it may be in the middle of its work yet:
  /// from now on it does not count as one that does not share it. It is watched as before until it comes to
  /// finish(). From any thread; returns at once.
  void failure_known();

  /// The orderly end: returns when all ranks came to it; until then the others are watched. Only beat(),
  /// which then does nothing, may follow. A second call returns at once.
  void finish();
  /// The same for an error that all ranks share. When there are others that neither come to finish() nor know
  /// of it (failure_known()) within `lost_seconds`, it was this rank's alone: all processes end, and the
  /// message has `failure`'s text. So call it before the error is printed.
  void finish(const Error& failure);

  /// Ends the processes of all ranks, whatever they do, with status `stopped` and one message that begins
  /// with `why`. From any thread. Returns only where that cannot be done: the watchdog is switched off, all
  /// came to finish(), or nobody who could tell the others answered within seven seconds. The caller then
  /// ends its own process, and the others, as soon as they see it gone, end as said here.
  void stop(const std::string& why);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fedspallm::comm
