// SPDX-License-Identifier: Apache-2.0
// Memory of this process and what is left for it: /proc, cgroups, Slurm.
#include "fedspallm/report/system.hpp"

#include <unistd.h>

#include "proc_files.hpp"
#include <algorithm>
#include <cstdlib>

namespace fedspallm::report {

namespace {

constexpr std::int64_t kKibi = 1024;
constexpr std::int64_t kMebi = kKibi * kKibi;
constexpr std::int64_t kNoLimit = std::int64_t{1} << 60;  // version 1 writes about 2^63 for "no limit"

std::int64_t kilobytes_of(const SystemSources& sources, const char* name) {
  return number_after(read_small_file(sources.proc / "self/status").value_or(""), name).value_or(0) * kKibi;
}

void lower(MemoryLimit& limit, std::int64_t bytes, const std::string& source) {
  if (bytes < limit.bytes) limit = {std::max<std::int64_t>(0, bytes), source};
}

/// @param cache  names in memory.stat of page cache, which the kernel gives back when memory runs short
void lower_by_cgroup(MemoryLimit& limit, const std::filesystem::path& folder, const char* most,
                     const char* used, const std::vector<std::string>& cache) {
  const auto bytes = number_in(folder / most);
  if (!bytes || *bytes >= kNoLimit) return;
  const std::int64_t usage = number_in(folder / used).value_or(0);
  const std::string stat = read_small_file(folder / "memory.stat").value_or("");
  std::int64_t reclaimable = 0;
  for (const std::string& name : cache) reclaimable += number_after(stat, name + " ").value_or(0);
  lower(limit, *bytes - std::max<std::int64_t>(0, usage - reclaimable), "cgroup " + folder.string());
}

std::int64_t megabytes_of(const SystemSources& sources, const char* name) {
  const char* text = sources.variable ? sources.variable(name) : std::getenv(name);
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long long number = std::strtoll(text, &end, 10);
  return *end == '\0' && number > 0 && number < kNoLimit / kMebi ? number : 0;
}

/// Slurm gives the memory of a node, or of each of its cores; 0 means the whole node.
void lower_by_slurm(MemoryLimit& limit, const SystemSources& sources) {
  if (const std::int64_t node = megabytes_of(sources, "SLURM_MEM_PER_NODE"); node > 0) {
    lower(limit, node * kMebi, "SLURM_MEM_PER_NODE");
    return;
  }
  const std::int64_t core = megabytes_of(sources, "SLURM_MEM_PER_CPU");
  const std::int64_t cores = megabytes_of(sources, "SLURM_CPUS_ON_NODE");
  if (core > 0 && cores > 0 && core < kNoLimit / kMebi / cores)
    lower(limit, core * cores * kMebi, "SLURM_MEM_PER_CPU");
}

}  // namespace

std::int64_t peak_rss_bytes(const SystemSources& sources) {
  return kilobytes_of(sources, "VmHWM:");
}
std::int64_t rss_bytes(const SystemSources& sources) {
  return kilobytes_of(sources, "VmRSS:");
}

MemoryLimit available_memory(const SystemSources& sources) {
  const auto available =
      number_after(read_small_file(sources.proc / "meminfo").value_or(""), "MemAvailable:");
  MemoryLimit limit{static_cast<std::int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE),
                    "free pages"};
  if (available) limit = {*available * kKibi, "MemAvailable"};
  const CgroupFolders folders = cgroup_folders(sources, "memory");
  for (const auto& folder : folders.unified)
    lower_by_cgroup(limit, folder, "memory.max", "memory.current", {"inactive_file", "active_file"});
  for (const auto& folder : folders.legacy)
    lower_by_cgroup(limit, folder, "memory.limit_in_bytes", "memory.usage_in_bytes",
                    {"total_inactive_file", "total_active_file"});
  lower_by_slurm(limit, sources);
  return limit;
}

std::int64_t available_memory_bytes(const SystemSources& sources) {
  return available_memory(sources).bytes;
}

}  // namespace fedspallm::report
