// SPDX-License-Identifier: Apache-2.0
#include "proc_files.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>

namespace fedspallm::report {

namespace {

constexpr std::size_t kLargestFile = std::size_t{4} << 20;

std::optional<std::int64_t> leading_number(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return std::nullopt;
  text.remove_prefix(first);
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end == text.data() || number < 0) return std::nullopt;
  return number;
}

/// `inner` below `root` with all folders in between, leaf first. A path that is not there (a container sees
/// its own cgroup as the root) gives the root alone.
std::vector<std::filesystem::path> chain(const std::filesystem::path& root,
                                         const std::filesystem::path& inner) {
  std::vector<std::filesystem::path> result;
  std::error_code ignored;
  std::filesystem::path below = inner.relative_path();
  if (std::filesystem::is_directory(root / below, ignored))
    for (; !below.empty(); below = below.parent_path()) result.push_back(root / below);
  result.push_back(root);
  return result;
}

bool names_controller(std::string_view list, std::string_view wanted) {
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    if (list.substr(begin, end - begin) == wanted) return true;
    begin = end + 1;
  }
  return false;
}

void shrink(double& quota, double candidate) {
  if (candidate > 0 && (quota == 0 || candidate < quota)) quota = candidate;
}

}  // namespace

std::optional<std::string> read_small_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return std::nullopt;
  std::string text;
  std::array<char, 16384> buffer;
  while (text.size() < kLargestFile && (stream.read(buffer.data(), buffer.size()) || stream.gcount() > 0))
    text.append(buffer.data(), static_cast<std::size_t>(stream.gcount()));
  if (stream.bad()) return std::nullopt;
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> result;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    result.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return result;
}

std::optional<std::int64_t> number_after(const std::string& text, const std::string& name) {
  for (const std::string& line : lines_of(text))
    if (line.starts_with(name)) return leading_number(std::string_view(line).substr(name.size()));
  return std::nullopt;
}

std::optional<std::int64_t> number_in(const std::filesystem::path& path) {
  const auto text = read_small_file(path);
  return text ? leading_number(*text) : std::nullopt;
}

CgroupFolders cgroup_folders(const SystemSources& sources, const std::string& controller) {
  CgroupFolders result;
  // Lines "ID:CONTROLLERS:PATH"; version 2 has the ID 0 and no controllers.
  for (const std::string& line : lines_of(read_small_file(sources.proc / "self/cgroup").value_or(""))) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (line.starts_with("0:") && controllers.empty())
      result.unified = chain(sources.cgroup, path);
    else if (names_controller(controllers, controller))
      result.legacy = chain(sources.cgroup / controller, path);
  }
  return result;
}

double cpu_quota(const SystemSources& sources) {
  double quota = 0;
  const CgroupFolders folders = cgroup_folders(sources, "cpu");
  for (const auto& folder : folders.unified) {  // "200000 100000" or "max 100000"
    const std::string text = read_small_file(folder / "cpu.max").value_or("");
    const auto space = text.find(' ');
    if (space == std::string::npos) continue;
    const auto time = leading_number(text.substr(0, space));
    const auto period = leading_number(text.substr(space));
    if (time && period.value_or(0) > 0)
      shrink(quota, static_cast<double>(*time) / static_cast<double>(*period));
  }
  for (const auto& folder : folders.legacy) {
    const auto time = number_in(folder / "cpu.cfs_quota_us");  // -1 = none
    const auto period = number_in(folder / "cpu.cfs_period_us");
    if (time && period.value_or(0) > 0)
      shrink(quota, static_cast<double>(*time) / static_cast<double>(*period));
  }
  return quota;
}

}  // namespace fedspallm::report
