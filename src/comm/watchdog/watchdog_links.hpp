// SPDX-License-Identifier: Apache-2.0
// Purpose: the watchdog's TCP connections: owned, non-blocking sockets that carry frames, a listener, and the
// way to reach one of several addresses. Nothing here ever waits, but for reach(), which has a time limit.
// Non-goals: who is connected to whom, what frames mean.
#pragma once

#include "fedspallm/base/descriptor.hpp"

#include "watchdog_frames.hpp"
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fedspallm::comm::watchdog {

using Socket = Descriptor;

/// Where a hub can be reached.
struct HubAddress {
  std::vector<std::string> hosts;  // numeric, in the order in which to try them
  std::uint16_t port = 0;
};

/// A socket on which a hub is called, on a port that the system chose.
class Listener {
 public:
  /// @param this_host_only  all ranks are on this host: nobody else can connect
  /// @throws LaunchError naming the failing call
  explicit Listener(bool this_host_only);
  [[nodiscard]] int fd() const { return socket_.get(); }
  [[nodiscard]] const HubAddress& address() const { return address_; }
  /// The next caller, or none when nobody waits or it went away.
  /// @throws LaunchError when this process, or the system, has no descriptor left for one
  [[nodiscard]] Socket accept() const;

 private:
  Socket socket_;
  HubAddress address_;
};

/// A connection that carries frames.
class Link {
 public:
  explicit Link(Socket socket) : socket_(std::move(socket)) {}
  [[nodiscard]] int fd() const { return socket_.get(); }
  /// Reads what is there. @return false when the other side has closed or the connection broke; frames that
  /// came before are still there to take.
  [[nodiscard]] bool receive();
  /// @throws DataError when what came is no frame
  [[nodiscard]] std::optional<Frame> next() { return reader_.next(); }
  /// Sends now what the connection takes and keeps the rest for flush().
  void send(const std::string& bytes);
  void flush();
  /// Bytes that wait because the other side does not read.
  [[nodiscard]] bool waiting() const { return !waiting_.empty(); }

 private:
  Socket socket_;
  FrameReader reader_;
  std::string waiting_;
};

/// Connects to one of the hub's addresses, greets, and waits for the right answer.
/// @throws LaunchError naming every address and what was wrong with it
[[nodiscard]] Link reach(const HubAddress& hub, const Hello& hello,
                         const std::array<std::uint64_t, 2>& expected_answer,
                         std::chrono::duration<double> limit);

/// Lets this process have as many descriptors as its hard limit allows. @throws LaunchError naming the limit
/// where that is less than `needed`
void allow_descriptors(std::uint64_t needed);

}  // namespace fedspallm::comm::watchdog
