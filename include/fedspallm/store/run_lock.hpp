// SPDX-License-Identifier: Apache-2.0
// Purpose: one job at a time in a run directory (rulings.md 25). Two things hold it: flock on RUN_DIR/.lock,
// which the system lets go when the process ends, and a lease RUN_DIR/.lease.json that says who holds it and
// is renewed by a thread, for file systems whose flock is missing or does not reach other hosts.
// A lease is stale, and is taken over, when its process is dead on this node, when it is of an earlier start
// of the same job (by its count of restarts, or where there is none: on another host or boot, and silent for
// 15 s), or when it was not renewed for `stale_seconds`. A process of this node that lives and has
// the flock is never robbed. Ages are differences of times that the run directory's own file system set, so
// hosts' clocks need not agree.
// Only rank 0 holds it. Non-goal: readers; they need no lock.
#pragma once

#include "fedspallm/base/process.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

namespace fedspallm::store {

/// Who holds a run directory.
struct LockHolder {
  ProcessId process;
  std::string job;            // of the batch system; "" = none
  std::int64_t restarts = 0;  // how often the batch system started that job again
  std::string launch;         // random: no two locks ever have the same

  /// This process, with the job from SLURM_JOB_ID and SLURM_RESTART_COUNT, PBS_JOBID or LSB_JOBID.
  [[nodiscard]] static LockHolder this_process();
};

struct RunLockOptions {
  double wait_seconds = 10;  // for another holder, before LockedError
  double renew_seconds = 5;
  double stale_seconds = 60;
};

class RunLock {
 public:
  /// Called once, on the renewing thread, with a message for a person: another job holds the directory now,
  /// or the lease is gone. The caller must stop writing there. It must not throw.
  using OnLost = std::function<void(const std::string& message)>;

  /// @param run_dir  made when it is missing
  /// @pre 0 <= wait_seconds; 0 < renew_seconds < stale_seconds
  /// @throws LockedError naming host, process, job and since when, after `wait_seconds`;
  /// @throws ResourceError when the directory cannot be written
  RunLock(std::filesystem::path run_dir, OnLost on_lost, const RunLockOptions& options = {},
          LockHolder self = LockHolder::this_process());
  /// Lets go: removes the lease, if it is still ours, then the flock.
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// flock does not work here (or a dead host still seems to have it): the lease alone holds. Worth a
  /// warning.
  [[nodiscard]] bool lease_only() const;
  /// "" or a remark for the log: whose stale lease was taken over, and why it was stale.
  [[nodiscard]] const std::string& taken_over() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fedspallm::store
