// SPDX-License-Identifier: Apache-2.0
// Purpose: who a process is, so that another one can tell later whether it still lives and can end it: a
// number alone is given to a new process after a while, a number with its start time never is.
// Non-goals: starting processes, job systems.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <cstdint>
#include <optional>
#include <string>

namespace fedspallm {

/// One process of one machine. Two of them are the same process when all four are equal.
struct ProcessId {
  std::string host;  // as gethostname() says; "unknown" when it does not
  std::string node;  // this boot of the machine and the pid namespace: within it, pids can be compared
  std::int64_t pid = 0;
  std::uint64_t start_time = 0;  // clock ticks from boot to its start; 0 = unknown

  bool operator==(const ProcessId&) const = default;
};

[[nodiscard]] ProcessId this_process();

/// Start time of a running process (field 22 of /proc/PID/stat); none when there is no such process or it is
/// dead and only waits for its parent (a zombie).
[[nodiscard]] std::optional<std::uint64_t> start_time_of(std::int64_t pid);

/// Whether pids of that process mean anything here: same host, same boot, same pid namespace.
[[nodiscard]] bool on_this_node(const ProcessId& process);
/// @pre on_this_node(process)
[[nodiscard]] bool is_alive(const ProcessId& process);
/// Sends SIGKILL to exactly this process, never to another one that got its number. Works also on a stopped
/// one. @return whether it was alive and the signal was sent. @pre on_this_node(process)
bool kill_process(const ProcessId& process);

/// While it lives, signals from outside are kept from the calling thread; threads started meanwhile keep them
/// away for good, so that the program's own handlers run on the program's own threads.
class SignalsBlocked {
 public:
  SignalsBlocked();
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace fedspallm
