// SPDX-License-Identifier: Apache-2.0
#include "signals.hpp"

#include "fedspallm/base/error.hpp"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <optional>
#include <utility>

namespace fedspallm::app {

namespace {

constexpr long kPollNanoseconds = 100'000'000;

sigset_t ours() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) sigaddset(&set, signal);
  return set;
}

const char* name_of_signal(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    default:
      return "";
  }
}

}  // namespace

Signals::Signals() {
  const sigset_t set = ours();
  require(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0, "signals can be blocked");
  thread_ = std::jthread([this](const std::stop_token& token) { run(token); });
}

Signals::~Signals() = default;

std::string Signals::stop_signal() const {
  return name_of_signal(stop_signal_);
}

void Signals::listen(Listener listener) {
  const std::scoped_lock lock(mutex_);
  listener_ = std::move(listener);
  if (stop_signal_ != 0 && listener_.stop) listener_.stop();
}

void Signals::run(const std::stop_token& token) {
  using Clock = std::chrono::steady_clock;
  const sigset_t set = ours();
  std::optional<Clock::time_point> first_stop;
  while (!token.stop_requested()) {
    const timespec wait{0, kPollNanoseconds};
    const int signal = sigtimedwait(&set, nullptr, &wait);
    if (signal > 0) take(signal);
    if (stop_signal_ == 0) continue;
    if (!first_stop) first_stop = Clock::now();
    const std::chrono::duration<double> since = Clock::now() - *first_stop;
    if (since.count() < grace_seconds_) continue;
    const std::scoped_lock lock(mutex_);
    leave("the grace time is over");
  }
}

void Signals::take(int signal) {
  if (signal != SIGUSR1 && stop_signal_ != 0) {
    // mpirun and schedulers may send several different signals for one stop; the same one twice is a person.
    const std::scoped_lock lock(mutex_);
    if (signal == stop_signal_ && signal != SIGUSR2) leave("the signal came twice");
    return;
  }
  if (signal != SIGUSR1) stop_signal_ = signal;
  const std::scoped_lock lock(mutex_);
  const auto& action = signal == SIGUSR1 ? listener_.save : listener_.stop;
  if (action) action();
}

Signals::Companions::Companions(Signals& signals, Leaving leaving) : signals_(signals) {
  signals_.set_leaving(std::move(leaving));
}

Signals::Companions::~Companions() {
  signals_.set_leaving({});
}

void Signals::set_leaving(Leaving leaving) {
  const std::scoped_lock lock(mutex_);
  leaving_ = std::move(leaving);
}

/// What is on disk is good at any instant, so leaving without further ado loses the block in work only.
/// @pre mutex_ is held
void Signals::leave(const std::string& why) {
  const std::string text =
      fmt::format("leaving at once: {}; the same command goes on from the last saved block", why);
  if (leaving_) leaving_(text);
  std::fprintf(stderr, "fedspallm: %s\n", text.c_str());
  std::fflush(nullptr);
  ::_exit(static_cast<int>(ExitStatus::stopped));
}

}  // namespace fedspallm::app
