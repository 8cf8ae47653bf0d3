// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/store/run_lock.hpp"

#include "fedspallm/base/error.hpp"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <sys/file.h>

#include "file_io.hpp"
#include "run_lock_lease.hpp"
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <optional>
#include <random>
#include <string_view>
#include <thread>

namespace fedspallm::store {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLookAgain{200};
/// Without flock two processes may replace a stale lease at once; after this time only one still has it.
constexpr std::chrono::seconds kSettle{1};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::chrono::duration<double> seconds(double value) {
  return std::chrono::duration<double>(value);
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(std::time(nullptr)));
}

enum class Flock { ours, others, unsupported };

Flock try_flock(const Descriptor& file, const std::filesystem::path& path) {
  for (;;) {
    if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) return Flock::ours;
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) return Flock::others;
    if (errno == ENOLCK || errno == ENOTSUP || errno == ENOSYS || errno == EINVAL) return Flock::unsupported;
    throw ResourceError(errno_message(path, "cannot be locked"));
  }
}

std::string locked_message(const std::filesystem::path& dir, const std::optional<SeenLease>& seen, double now,
                           const RunLockOptions& options) {
  std::string who = "another process, which has not said who it is";
  if (seen && seen->lease) {
    const LockHolder& holder = seen->lease->holder;
    who = fmt::format("process {} on {}{} since {}, last heard {:.0f} s ago", holder.process.pid,
                      holder.process.host, holder.job.empty() ? "" : fmt::format(" (job {})", holder.job),
                      seen->lease->since, std::max(0.0, now - seen->modified));
  }
  return fmt::format(
      "{}: in use by {}; waited {:g} s for it. Let it end or stop it, or choose another [run] dir; a process "
      "that "
      "is gone holds the directory for {:g} s at most",
      dir.string(), who, options.wait_seconds, options.stale_seconds);
}

}  // namespace

LockHolder LockHolder::this_process() {
  LockHolder self;
  self.process = fedspallm::this_process();
  for (const char* name : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"}) {
    if (self.job.empty()) self.job = environment(name);
  }
  const std::string restarts = environment("SLURM_RESTART_COUNT");
  std::from_chars(restarts.data(), restarts.data() + restarts.size(),
                  self.restarts);  // 0 where it is missing
  std::random_device device;
  for (int i = 0; i < 4; ++i) self.launch += fmt::format("{:08x}", device());
  return self;
}

struct RunLock::Impl {
  Impl(std::filesystem::path run_dir, OnLost handler, const RunLockOptions& how, const LockHolder& self_)
      : dir(std::move(run_dir)),
        on_lost(std::move(handler)),
        options(how),
        self(self_),
        lease(dir, {self_, utc_now()}) {}

  void acquire();
  bool try_once(std::optional<SeenLease>& seen);
  void keep(const std::stop_token& stop);
  /// @return "" or why the lease is not ours any more
  std::string renew(Clock::time_point& renewed);

  std::filesystem::path dir;
  OnLost on_lost;
  RunLockOptions options;
  LockHolder self;
  LeaseFile lease;
  Descriptor lock_file;
  bool lease_only = false;
  std::string taken_over;
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::jthread thread;  // last: it uses the others
};

void RunLock::Impl::acquire() {
  const std::filesystem::path path = dir / ".lock";
  lock_file = Descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!lock_file) throw ResourceError(errno_message(path, "cannot be opened for writing"));
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(seconds(options.wait_seconds));
  std::optional<SeenLease> seen;
  while (!try_once(seen)) {
    check<LockedError>(Clock::now() < end, locked_message(dir, seen, lease.now(), options));
    std::this_thread::sleep_for(kLookAgain);
  }
}

bool RunLock::Impl::try_once(std::optional<SeenLease>& seen) {
  const Flock lock = try_flock(lock_file, dir / ".lock");
  seen = lease.look();
  const std::string reason = seen ? stale_reason(*seen, self, lease.now(), options.stale_seconds) : "";
  bool free = !seen || !reason.empty();
  // Who has the flock lives, if it is of this node. Of another node's dead process a server may not know yet.
  if (lock == Flock::others)
    free = seen && !reason.empty() && seen->lease && !on_this_node(seen->lease->holder.process);
  if (free) free = lease.take(seen.has_value());
  if (free && lock != Flock::ours) {
    std::this_thread::sleep_for(kSettle);
    free = lease.is_ours(lease.look());
  }
  if (!free) {
    if (lock == Flock::ours) ::flock(lock_file.get(), LOCK_UN);
    return false;
  }
  lease_only = lock != Flock::ours;
  if (!reason.empty()) taken_over = fmt::format("{}: took over a stale lock: {}", dir.string(), reason);
  return true;
}

std::string RunLock::Impl::renew(Clock::time_point& renewed) {
  std::string problem;
  try {
    const auto seen = lease.look();
    if (seen && !lease.is_ours(seen)) {
      const std::string who = seen->lease ? fmt::format("process {} on {}", seen->lease->holder.process.pid,
                                                        seen->lease->holder.process.host)
                                          : std::string("something unknown");
      return fmt::format("{}: {} took the lock of this directory over", dir.string(), who);
    }
    if (seen) lease.renew();
    // Removed by hand: put back, unless somebody else is quicker, which the next look will show.
    if (seen || lease.take(false)) renewed = Clock::now();
  } catch (const ResourceError& error) {
    problem = error.what();  // perhaps only for now
  }
  if (Clock::now() - renewed <= seconds(options.stale_seconds)) return {};
  return fmt::format(
      "{}: the lock of this directory could not be renewed for {:g} s, others may have taken it: {}",
      dir.string(), options.stale_seconds, problem);
}

void RunLock::Impl::keep(const std::stop_token& stop) {
  auto renewed = Clock::now();
  std::unique_lock lock(mutex);
  while (
      !stopped.wait_for(lock, stop, seconds(options.renew_seconds), [&] { return stop.stop_requested(); })) {
    const std::string lost = renew(renewed);
    if (lost.empty()) continue;
    if (on_lost) on_lost(lost);
    return;
  }
}

RunLock::RunLock(std::filesystem::path run_dir, OnLost on_lost, const RunLockOptions& options,
                 LockHolder self) {
  require(options.wait_seconds >= 0, "RunLock: 0 <= wait_seconds");
  require(options.renew_seconds > 0 && options.renew_seconds < options.stale_seconds,
          "RunLock: 0 < renew_seconds < stale_seconds");
  make_folders(run_dir);
  impl_ = std::make_unique<Impl>(std::move(run_dir), std::move(on_lost), options, self);
  impl_->acquire();
  const SignalsBlocked blocked;
  impl_->thread = std::jthread([this](const std::stop_token& stop) { impl_->keep(stop); });
}

RunLock::~RunLock() {
  impl_->thread.request_stop();
  impl_->thread.join();
  try {
    if (impl_->lease.is_ours(impl_->lease.look())) impl_->lease.remove();
  } catch (const Error&) {  // cannot be read: it grows stale
  }
}

bool RunLock::lease_only() const {
  return impl_->lease_only;
}

const std::string& RunLock::taken_over() const {
  return impl_->taken_over;
}

}  // namespace fedspallm::store
