// SPDX-License-Identifier: Apache-2.0
// Purpose: what watchdogs say to each other, as bytes: frames of a length (4 bytes), a kind (1 byte) and
// a body of at most 8 KiB, integers little-endian. Whatever arrives is checked: a frame that is not exactly
// as written here is a DataError, and its sender's connection is closed. Non-goal: sockets.
#pragma once

#include "watchdog_monitor.hpp"
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fedspallm::comm::watchdog {

/// Random numbers of this job that tell its ranks from strangers: one is shown by who calls, one by who
/// answers.
struct Tokens {
  std::array<std::uint64_t, 2> caller{};
  std::array<std::uint64_t, 2> answer{};

  bool operator==(const Tokens&) const = default;
};

enum class Kind : std::uint8_t {
  hello = 1,
  welcome = 2,
  report = 3,
  failure = 4,
  end = 5,
  done = 6,
  goodbye = 7
};

struct Frame {
  Kind kind = Kind::goodbye;
  std::string body;
};

/// Opens a connection: who calls, and whom it means to reach.
struct Hello {
  std::array<std::uint64_t, 2> token{};
  int rank = 0;
  int hub = 0;
};

[[nodiscard]] std::string encode_hello(const Hello& hello);
[[nodiscard]] std::string encode_welcome(const std::array<std::uint64_t, 2>& token);
[[nodiscard]] std::string encode_report(const Report& report);
/// Long texts are cut.
[[nodiscard]] std::string encode_failure(std::string_view text);
[[nodiscard]] std::string encode_end(const Verdict& verdict);
/// done and goodbye, which have no body.
[[nodiscard]] std::string encode_bare(Kind kind);

/// @throws DataError when the body is not that of such a frame
[[nodiscard]] Hello decode_hello(const Frame& frame);
[[nodiscard]] std::array<std::uint64_t, 2> decode_welcome(const Frame& frame);
[[nodiscard]] Report decode_report(const Frame& frame);
[[nodiscard]] Verdict decode_end(const Frame& frame);

/// Cuts a stream of bytes into frames.
class FrameReader {
 public:
  void add(std::span<const char> bytes) { buffer_.append(bytes.data(), bytes.size()); }
  /// The next whole frame. @throws DataError for an unknown kind or a length that no frame has
  [[nodiscard]] std::optional<Frame> next();

 private:
  std::string buffer_;
};

}  // namespace fedspallm::comm::watchdog
