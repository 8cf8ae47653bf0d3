// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/process.hpp"

#include "fedspallm/base/descriptor.hpp"
#include "fedspallm/base/error.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <sstream>

namespace fedspallm {

namespace {

/// What the kernel writes there, without the last line's end; "" when it cannot be read.
std::string small_text(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return {};
  std::string text;
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

std::string node_name() {
  std::array<char, 64> space{};
  const ssize_t length = ::readlink("/proc/self/ns/pid", space.data(), space.size());
  const std::string pids = length > 0 ? std::string(space.data(), static_cast<std::size_t>(length)) : "";
  return small_text("/proc/sys/kernel/random/boot_id") + " " + pids;
}

}  // namespace

ProcessId this_process() {
  const std::int64_t pid = ::getpid();
  return {host_name(), node_name(), pid, start_time_of(pid).value_or(0)};
}

std::optional<std::uint64_t> start_time_of(std::int64_t pid) {
  const std::string text = small_text(fmt::format("/proc/{}/stat", pid));
  // Field 2 is the program's name in parentheses and may itself hold spaces and parentheses.
  const auto name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream rest(text.substr(name_end + 1));
  std::string field;
  constexpr int kState = 3;
  constexpr int kStartTime = 22;
  for (int number = kState; number < kStartTime; ++number) {
    rest >> field;
    if (number == kState && (field == "Z" || field == "X")) return std::nullopt;
  }
  std::uint64_t start = 0;
  if (!(rest >> start)) return std::nullopt;
  return start;
}

bool on_this_node(const ProcessId& process) {
  const ProcessId self = this_process();
  return process.host == self.host && process.node == self.node;
}

bool is_alive(const ProcessId& process) {
  require(on_this_node(process), "is_alive: the process is of this node");
  return start_time_of(process.pid) == process.start_time;
}

bool kill_process(const ProcessId& process) {
  require(process.pid > 1, "kill_process: pid > 1");  // 0, 1 and -1 mean groups, init, everybody
  // The descriptor stands for one process for ever, so what is checked after it was opened is what is killed.
  // (System calls by number: glibc 2.36 declares these functions without C linkage.)
  const Descriptor handle(static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(process.pid), 0U)));
  if (!handle && errno == ESRCH) return false;
  if (!is_alive(process)) return false;
  return handle ? ::syscall(SYS_pidfd_send_signal, handle.get(), SIGKILL, nullptr, 0U) == 0
                : ::kill(static_cast<pid_t>(process.pid), SIGKILL) == 0;
}

SignalsBlocked::SignalsBlocked() {
  sigset_t outside;
  sigfillset(&outside);
  // A thread's own faults must still end the program where they happen.
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS})
    sigdelset(&outside, fault);
  pthread_sigmask(SIG_BLOCK, &outside, &before_);
}

SignalsBlocked::~SignalsBlocked() {
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

}  // namespace fedspallm
