// SPDX-License-Identifier: Apache-2.0
#include "run_status.hpp"

#include "fedspallm/report/system.hpp"
#include "fedspallm/store/run_store.hpp"

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <cstdlib>
#include <utility>

namespace fedspallm::app {

RunStatus::RunStatus(const std::filesystem::path& run_dir, std::string host, int ranks)
    : file_(run_dir / "status.json"), host_(std::move(host)), ranks_(ranks) {}

const store::RunLock& RunStatus::keep(std::unique_ptr<store::RunLock> lock) {
  lock_ = std::move(lock);
  return *lock_;
}

void RunStatus::running(const std::string& phase, std::uint32_t round, std::int64_t block) {
  const std::scoped_lock lock(mutex_);
  ours_ = true;
  phase_ = phase;
  round_ = round;
  block_ = block;
  write("running", std::nullopt, "");
}

void RunStatus::ended(ExitStatus status, const std::string& message) {
  const std::scoped_lock lock(mutex_);
  if (!ours_) return;
  const char* state = "failed";
  if (status == ExitStatus::done) state = "finished";
  if (status == ExitStatus::stopped) state = "stopped";
  if (status == ExitStatus::peer_lost) state = "lost";
  try {
    write(state, status, message);
  } catch (const Error&) {  // the run's own outcome is what counts; a full disk has been told of already
  }
}

void RunStatus::write(const std::string& state, std::optional<ExitStatus> status,
                      const std::string& message) {
  nlohmann::json content = {
      {"format_version", 1}, {"state", state},  {"phase", phase_},           {"host", host_},
      {"pid", ::getpid()},   {"ranks", ranks_}, {"time", report::iso_date()}};
  if (round_ > 0) content["round"] = round_;
  if (block_ >= 0) content["block"] = block_;
  if (status) content["exit_status"] = static_cast<int>(*status);
  if (!message.empty()) content["message"] = message;
  if (const char* job = std::getenv("SLURM_JOB_ID")) content["slurm_job_id"] = job;
  if (const char* restarts = std::getenv("SLURM_RESTART_COUNT")) content["slurm_restart_count"] = restarts;
  store::write_file_atomically(file_,
                               content.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace fedspallm::app
