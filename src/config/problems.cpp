// SPDX-License-Identifier: Apache-2.0
#include "problems.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>

namespace fedspallm::config {

void Problems::add(const Origin& origin, const std::string& message) {
  problems_.push_back({origin.line, fmt::format("{}: {}", origin.text, message)});
}

namespace {

constexpr std::size_t kMostShown = 50;       // more tell nobody more
constexpr std::size_t kLongestShown = 1000;  // bytes of one problem; keys can be of any length

/// The text, or its beginning, not cut inside a UTF-8 character.
std::string shown(const std::string& text) {
  if (text.size() <= kLongestShown) return text;
  std::size_t end = kLongestShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return text.substr(0, end) + "...";
}

}  // namespace

void Problems::raise() const {
  if (problems_.empty()) return;
  std::vector<Problem> sorted = problems_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Problem& a, const Problem& b) { return a.line < b.line; });
  std::string message;
  for (std::size_t i = 0; i < std::min(sorted.size(), kMostShown); ++i)
    message += (message.empty() ? "" : "\n") + shown(sorted[i].text);
  if (sorted.size() > kMostShown) message += fmt::format("\n... and {} more", sorted.size() - kMostShown);
  throw ConfigError(message);
}

}  // namespace fedspallm::config
