// SPDX-License-Identifier: Apache-2.0
#include "problems.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>

namespace fedspallm::config {

void Problems::add(const Origin& origin, const std::string& message) {
  problems_.push_back({origin.line, fmt::format("{}: {}", origin.text, message)});
}

void Problems::raise() const {
  if (problems_.empty()) return;
  std::vector<Problem> sorted = problems_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Problem& a, const Problem& b) { return a.line < b.line; });
  std::string message;
  for (const Problem& problem : sorted) message += (message.empty() ? "" : "\n") + problem.text;
  throw ConfigError(message);
}

}  // namespace fedspallm::config
