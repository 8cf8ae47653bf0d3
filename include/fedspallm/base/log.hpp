// SPDX-License-Identifier: Apache-2.0
// Purpose: the program's log. Standard error carries rank 0 only; every rank may also have a file of its own.
// A Logger is passed along; there is no global one. Non-goals: metrics and progress (report/).
#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>
#include <string_view>

namespace fedspallm {

enum class LogLevel { debug, info, warning, error };

class Logger {
 public:
  /// @param rank  prefix of each line; only rank 0 writes to standard error (errors: every rank that is told
  /// to report).
  /// @param file  log file of this rank, appended to, or "" for none. @throws ResourceError if it cannot be
  /// opened
  Logger(int rank, const std::string& file, LogLevel console_level = LogLevel::info);
  ~Logger();
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  void write(LogLevel level, std::string_view message);
  template <class... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void warn(fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void debug(fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fedspallm
