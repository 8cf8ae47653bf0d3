// SPDX-License-Identifier: Apache-2.0
// Purpose: who the ranks are (host, process), which of them are hubs, and what a person is told about one of
// them. Non-goal: sockets.
#pragma once

#include "fedspallm/base/process.hpp"

#include "watchdog_links.hpp"
#include <string>
#include <vector>

namespace fedspallm::comm::watchdog {

struct Member {
  std::string host;  // as MPI calls it
  ProcessId process;

  bool operator==(const Member&) const = default;
};

using Roster = std::vector<Member>;  // by rank

[[nodiscard]] std::string encode_member(const Member& member);
/// @throws PeerError when it is no member
[[nodiscard]] Member decode_member(const std::string& text);

[[nodiscard]] std::string encode_address(const HubAddress& address);
/// @throws PeerError when it is no address
[[nodiscard]] HubAddress decode_address(const std::string& text);

/// Texts, none of which has a line's end, as one and back.
[[nodiscard]] std::string join_lines(const std::vector<std::string>& lines);
[[nodiscard]] std::vector<std::string> split_lines(const std::string& text);

/// Rank 0 and up to two deputies, ascending, which is the order in which they take over. They are on
/// different hosts where there are so many (the lowest rank of each), else the lowest ranks that are left
/// join them.
[[nodiscard]] std::vector<int> choose_hubs(const Roster& roster);

/// Of the ranks on the same node as `rank`, is it the lowest that is no hub? (Who speaks when no hub is
/// left.)
[[nodiscard]] bool speaks_for_node(const Roster& roster, const std::vector<int>& hubs, int rank);

/// The loss with its message.
[[nodiscard]] Loss describe(const Verdict& verdict, const Roster& roster, const WatchdogOptions& options);

}  // namespace fedspallm::comm::watchdog
