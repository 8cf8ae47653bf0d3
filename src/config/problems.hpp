// SPDX-License-Identifier: Apache-2.0
// Purpose: where a value of the configuration stands, and the list of all that is wrong with a file, so that
// one run tells a person everything. Non-goal: warnings.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace fedspallm::config {

/// "FILE:LINE", "FILE" or "--set key=value", with the place in reading order.
struct Origin {
  static constexpr std::int64_t kSettings = std::numeric_limits<std::int32_t>::max();
  std::string text;
  std::int64_t line = 0;  // settings come after all lines of the file; 0 = the file as a whole
};

class Problems {
 public:
  void add(const Origin& origin, const std::string& message);
  [[nodiscard]] bool empty() const { return problems_.empty(); }
  /// @throws ConfigError with one line per problem, in reading order (the first 50), when there is any
  void raise() const;

 private:
  struct Problem {
    std::int64_t line;
    std::string text;
  };
  std::vector<Problem> problems_;
};

}  // namespace fedspallm::config
