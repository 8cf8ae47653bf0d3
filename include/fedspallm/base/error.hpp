// SPDX-License-Identifier: Apache-2.0
// Purpose: the one error tree of the program and the check() that throws it.
// Each class stands for one exit status (design.md section 5). Non-goal: expected numerical failures,
// such as a Hessian that is not positive definite; those are return values.
#pragma once

#include <fmt/format.h>

#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace fedspallm {

/// Exit statuses of every rank, as listed in --help.
enum class ExitStatus : int {
  done = 0,
  check_failed = 1,
  bad_input = 2,
  started_wrongly = 3,
  no_resources = 4,
  locked = 5,
  peer_lost = 6,
  numerical = 7,
  stopped = 75,
};

/// Base of the tree. what() is the message a person reads: what, where, found, expected, what to do.
class Error : public std::runtime_error {
 public:
  Error(ExitStatus status, const std::string& message,
        std::source_location location = std::source_location::current());
  [[nodiscard]] ExitStatus status() const noexcept { return status_; }
  /// "file.cpp:12" of the throwing line; for logs, not for users.
  [[nodiscard]] const std::string& origin() const noexcept { return origin_; }

 private:
  ExitStatus status_;
  std::string origin_;
};

/// Defines one leaf of the tree.
#define FEDSPALLM_ERROR_CLASS(Name, Status)                                        \
  class Name : public Error {                                                      \
   public:                                                                         \
    explicit Name(const std::string& message,                                      \
                  std::source_location location = std::source_location::current()) \
        : Error(Status, message, location) {}                                      \
  };
FEDSPALLM_ERROR_CLASS(CheckFailed, ExitStatus::check_failed)  // recount differs from the record
FEDSPALLM_ERROR_CLASS(ConfigError, ExitStatus::bad_input)     // config file or command line
FEDSPALLM_ERROR_CLASS(ModelError, ExitStatus::bad_input)      // model directory
FEDSPALLM_ERROR_CLASS(DataError, ExitStatus::bad_input)       // token files, run files, updates
FEDSPALLM_ERROR_CLASS(NotCompiled, ExitStatus::bad_input)     // a backend or transport this build lacks
FEDSPALLM_ERROR_CLASS(LaunchError, ExitStatus::started_wrongly)
FEDSPALLM_ERROR_CLASS(ResourceError, ExitStatus::no_resources)  // memory, disk, file system
FEDSPALLM_ERROR_CLASS(LockedError, ExitStatus::locked)
FEDSPALLM_ERROR_CLASS(PeerError, ExitStatus::peer_lost)  // lost ranks, failing MPI calls
FEDSPALLM_ERROR_CLASS(NumericalError, ExitStatus::numerical)
FEDSPALLM_ERROR_CLASS(Stopped, ExitStatus::stopped)
/// A broken precondition of ours: a defect of the program, never of its input.
FEDSPALLM_ERROR_CLASS(LogicError, ExitStatus::check_failed)
#undef FEDSPALLM_ERROR_CLASS

/// The exception in flight as one of the tree. Those of the standard library that pass by are memory and file
/// system (no_resources), anything else is unexpected (check_failed).
[[nodiscard]] Error current_error();

/// Throws E(message) unless the condition holds. The message is built either way: keep it off hot paths.
template <class E>
inline void check(bool condition, std::string_view message,
                  std::source_location location = std::source_location::current()) {
  if (!condition) throw E(std::string(message), location);
}

/// A stated precondition (@pre in the headers). Throws LogicError naming the expectation.
inline void require(bool condition, std::string_view expectation,
                    std::source_location location = std::source_location::current()) {
  if (!condition) throw LogicError(fmt::format("precondition violated: {}", expectation), location);
}

/// The name in `known` nearest to `word` by edit distance, or "" when none is near enough to suggest.
[[nodiscard]] std::string nearest_name(std::string_view word, const std::string* known, std::size_t count);

}  // namespace fedspallm
