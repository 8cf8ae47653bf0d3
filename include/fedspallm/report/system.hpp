// SPDX-License-Identifier: Apache-2.0
// Purpose: what this process and its machine have: memory, disk, cores, names, the time, a terminal; and
// probes of what a folder's file system can do (for `doctor`). Facts that cannot be found out are 0 or
// "unknown", never an error. Non-goals: GPUs (backend/), MPI and launchers (comm/, app/).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace fedspallm::report {

/// Where facts come from; tests put folders and variables of their own here.
struct SystemSources {
  std::filesystem::path proc = "/proc";
  std::filesystem::path cgroup = "/sys/fs/cgroup";
  std::function<const char*(const char*)> variable;  // environment; empty = the process' own
};

/// Largest resident set so far (VmHWM) and the one now, in bytes; 0 when unknown.
[[nodiscard]] std::int64_t peak_rss_bytes(const SystemSources& sources = {});
[[nodiscard]] std::int64_t rss_bytes(const SystemSources& sources = {});

struct MemoryLimit {
  std::int64_t bytes = 0;
  std::string source;  // what sets the limit: "MemAvailable", "cgroup PATH", "SLURM_MEM_PER_NODE"
};
/// What all processes of this job on this node may still take together: the least of the kernel's
/// MemAvailable, what the cgroups (v1 or v2) above this process leave (page cache counted as free) and
/// Slurm's share of the node.
[[nodiscard]] MemoryLimit available_memory(const SystemSources& sources = {});
[[nodiscard]] std::int64_t available_memory_bytes(const SystemSources& sources = {});

/// Bytes free to this user on the file system of `path` or of its nearest existing parent.
/// @throws ResourceError naming the path when the file system does not answer
[[nodiscard]] std::int64_t free_disk_bytes(const std::filesystem::path& path);

/// "AMD EPYC ...", or "unknown".
[[nodiscard]] std::string cpu_model(const SystemSources& sources = {});
/// Cores that this process may use: those of its affinity mask, fewer where a cgroup's CPU quota allows less;
/// at least 1.
[[nodiscard]] int affinity_cores(const SystemSources& sources = {});
/// Cores divided among the ranks of the node that share them, at least 1 each. @pre cores >= 1, ranks_sharing
/// >= 1
[[nodiscard]] int threads_for_rank(int cores, int ranks_sharing);
[[nodiscard]] std::string host_name();

/// Whether a person looks at this file descriptor (2 = standard error).
[[nodiscard]] bool is_terminal(int descriptor = 2);
/// Columns of the terminal at this descriptor, 80 when unknown.
[[nodiscard]] int terminal_columns(int descriptor = 2);

/// Now, in UTC: "2026-03-04T05:06:07Z".
[[nodiscard]] std::string iso_date();
/// Seconds since 1970 in UTC with milliseconds: "2026-03-04T05:06:07.890Z".
[[nodiscard]] std::string iso_date(double seconds_since_epoch);

/// Whether flock() excludes a second holder in this folder: "yes", or "no: " and why. Leaves no file behind.
[[nodiscard]] std::string probe_file_lock(const std::filesystem::path& folder);
/// Whether a file there can be written, synchronized, renamed and its folder synchronized: "yes (3.1 ms)", or
/// "no: " and why.
[[nodiscard]] std::string probe_fsync(const std::filesystem::path& folder);

}  // namespace fedspallm::report
