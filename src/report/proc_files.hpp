// SPDX-License-Identifier: Apache-2.0
// Purpose: the small text files of /proc and /sys/fs/cgroup that system.hpp's facts come from.
// Non-goal: any file that is large or not made by the kernel.
#pragma once

#include "fedspallm/report/system.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::report {

/// At most 4 MiB; none when it cannot be read.
[[nodiscard]] std::optional<std::string> read_small_file(const std::filesystem::path& path);
[[nodiscard]] std::vector<std::string> lines_of(const std::string& text);
/// The non-negative integer after `name` at the start of a line ("MemAvailable:   123 kB"), none when there
/// is none.
[[nodiscard]] std::optional<std::int64_t> number_after(const std::string& text, const std::string& name);
/// A file that holds one non-negative integer; none for "max" and anything else.
[[nodiscard]] std::optional<std::int64_t> number_in(const std::filesystem::path& path);

/// The folders of this process' cgroup and of all above it, of version 2 and of version 1's `controller`,
/// leaf first.
struct CgroupFolders {
  std::vector<std::filesystem::path> unified;
  std::vector<std::filesystem::path> legacy;
};
[[nodiscard]] CgroupFolders cgroup_folders(const SystemSources& sources, const std::string& controller);

/// Cores' worth of time that the cgroups allow, e.g. 1.5; 0 = no limit.
[[nodiscard]] double cpu_quota(const SystemSources& sources);

}  // namespace fedspallm::report
