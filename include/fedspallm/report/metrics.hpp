// SPDX-License-Identifier: Apache-2.0
// Purpose: metrics.jsonl, one JSON object a line, written by rank 0 as things happen: appended and handed to
// the kernel line by line, never cut, also by a run that starts again. Other ranks' events travel as text
// (to_json, parse_event). Non-goal: who sends which event when (app/).
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace fedspallm::report {

/// When an event happened.
struct Stamp {
  double time = 0;       // seconds since 1970
  double monotonic = 0;  // seconds of this host's steady clock: for differences on one host
};
[[nodiscard]] Stamp stamp_now();

/// {"event": "block", "time": "2026-03-04T05:06:07.890Z", "monotonic": 12.345, ...fields}
struct Event {
  std::string name;
  nlohmann::json fields = nlohmann::json::object();  // numbers that are not finite become null
  std::optional<Stamp> stamp = std::nullopt;         // else the time of writing
};

/// One line without its end. Texts that are not UTF-8 get replacement characters.
/// @pre name not empty, fields an object without "event", "time" and "monotonic"
[[nodiscard]] std::string to_json(const Event& event);
/// The inverse. @throws DataError when the text is no event
[[nodiscard]] Event parse_event(const std::string& line);

class MetricsWriter {
 public:
  /// Opens the file for appending; a line that a killed run left unfinished is ended first, so that it spoils
  /// no other.
  /// @throws ResourceError naming the file
  explicit MetricsWriter(const std::filesystem::path& file);
  ~MetricsWriter();
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;

  /// Writes one line; may be called by several threads. @throws ResourceError (a full disk, for one)
  void write(const Event& event);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fedspallm::report
