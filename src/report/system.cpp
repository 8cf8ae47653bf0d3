// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/system.hpp"

#include "fedspallm/base/error.hpp"

#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "proc_files.hpp"
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <ctime>
#include <memory>

namespace fedspallm::report {

namespace {

/// Cores in the affinity mask; grows the mask for machines with more than 1,024.
int cores_in_mask() {
  for (int most = 1024; most <= (1 << 20); most *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(static_cast<std::size_t>(most)),
                                                               [](cpu_set_t* p) { CPU_FREE(p); });
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(most));
    if (sched_getaffinity(0, bytes, set.get()) == 0) return CPU_COUNT_S(bytes, set.get());
  }
  return 0;
}

}  // namespace

std::string cpu_model(const SystemSources& sources) {
  const std::string text = read_small_file(sources.proc / "cpuinfo").value_or("");
  for (const std::string& line : lines_of(text)) {
    const auto colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

int affinity_cores(const SystemSources& sources) {
  int cores = cores_in_mask();
  if (cores < 1) cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const double quota = cpu_quota(sources);
  if (quota > 0 && quota < cores) cores = static_cast<int>(std::ceil(quota));
  return std::max(1, cores);
}

int threads_for_rank(int cores, int ranks_sharing) {
  require(cores >= 1, "cores >= 1");
  require(ranks_sharing >= 1, "ranks_sharing >= 1");
  return std::max(1, cores / ranks_sharing);
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

bool is_terminal(int descriptor) {
  return isatty(descriptor) == 1;
}

int terminal_columns(int descriptor) {
  constexpr int kUsual = 80;
  winsize size{};
  if (!is_terminal(descriptor) || ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
    return kUsual;
  return size.ws_col;
}

std::string iso_date() {
  return iso_date(static_cast<double>(std::time(nullptr))).substr(0, 19) + "Z";
}

std::string iso_date(double seconds_since_epoch) {
  const double whole = std::floor(seconds_since_epoch);
  auto milliseconds = static_cast<int>(std::lround((seconds_since_epoch - whole) * 1000));
  auto seconds = static_cast<std::time_t>(whole);
  if (milliseconds == 1000) {
    milliseconds = 0;
    ++seconds;
  }
  std::tm fields{};
  if (gmtime_r(&seconds, &fields) == nullptr) return "unknown";
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", fields.tm_year + 1900, fields.tm_mon + 1,
                     fields.tm_mday, fields.tm_hour, fields.tm_min, fields.tm_sec, milliseconds);
}

}  // namespace fedspallm::report
