// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/report/format.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>

namespace fedspallm::report {

std::string duration_text(double seconds) {
  constexpr double kForever = 1e9;  // thirty years: no measured time, and still far from overflow
  if (!(seconds >= 0) || seconds > kForever) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  const std::int64_t minutes = whole / 60, hours = whole / 3600, days = whole / 86400;
  if (minutes == 0) return fmt::format("{} s", whole);
  if (hours == 0) return fmt::format("{}:{:02}", minutes, whole % 60);
  if (days == 0) return fmt::format("{}:{:02}:{:02}", hours, minutes % 60, whole % 60);
  return fmt::format("{} d {:02}:{:02}", days, hours % 24, minutes % 60);
}

std::string bytes_text(std::int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024 && bytes > -1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (std::abs(value) >= 999.5 && unit + 1 < kUnits.size()) {  // three digits at most
    value /= 1024;
    ++unit;
  }
  const int decimals = std::abs(value) < 9.995 ? 2 : std::abs(value) < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, kUnits[unit]);
}

std::string count_text(std::int64_t count) {
  std::string text = fmt::format("{}", count);
  const std::size_t first = text.front() == '-' ? 1 : 0;
  for (std::size_t end = text.size(); end > first + 3; end -= 3) text.insert(end - 3, ",");
  return text;
}

std::string perplexity_text(double value) {
  if (std::isnan(value)) return "-";
  return std::abs(value) < 1e5 ? fmt::format("{:.2f}", value) : fmt::format("{:.2g}", value);
}

namespace {
bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;
}
}  // namespace

std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  for (const char c : text) width += continues_character(c) ? 0U : 1U;
  return width;
}

std::string_view clipped(std::string_view text, std::size_t columns) {
  std::size_t end = 0;
  for (std::size_t width = 0; end < text.size(); ++end) {
    if (continues_character(text[end])) continue;
    if (width == columns) break;
    ++width;
  }
  return text.substr(0, end);
}

}  // namespace fedspallm::report
