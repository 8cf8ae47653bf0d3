// SPDX-License-Identifier: Apache-2.0
// Purpose: RUN_DIR/status.json, replaced as a whole: where the run is, and at its end how it ended, for job
// scripts and people who look from outside (rulings.md 23). Written by rank 0; by another rank only when rank
// 0 was lost. Non-goal: history (metrics.jsonl).
#pragma once

#include "fedspallm/base/error.hpp"
#include "fedspallm/store/run_lock.hpp"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace fedspallm::app {

class RunStatus {
 public:
  RunStatus(const std::filesystem::path& run_dir, std::string host, int ranks);

  /// The directory is this job's until this object ends, thus until its outcome is written.
  const store::RunLock& keep(std::unique_ptr<store::RunLock> lock);
  /// {"state": "running", "phase": ..., "round": ..., "block": ..., "blocks": ...}; block -1 = none.
  void running(const std::string& phase, std::uint32_t round = 0, std::int64_t block = -1);
  /// Nothing before the first running(): the directory may be another job's.
  /// {"state": "finished" | "stopped" | "failed" | "lost", "exit_status": ..., "message": ...}
  void ended(ExitStatus status, const std::string& message);

 private:
  void write(const std::string& state, std::optional<ExitStatus> status, const std::string& message);

  std::unique_ptr<store::RunLock> lock_;
  std::filesystem::path file_;
  std::string host_;
  int ranks_;
  std::mutex mutex_;
  bool ours_ = false;
  std::string phase_ = "setup";
  std::uint32_t round_ = 0;
  std::int64_t block_ = -1;
};

}  // namespace fedspallm::app
