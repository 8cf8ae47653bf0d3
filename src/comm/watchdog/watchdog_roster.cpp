// SPDX-License-Identifier: Apache-2.0
#include "watchdog_roster.hpp"

#include <algorithm>
#include <set>
#include <sstream>

namespace fedspallm::comm::watchdog {

namespace {

constexpr std::size_t kHubs = 3;  // so that two of them may be lost together

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream rest(text);
  for (std::string part; std::getline(rest, part, separator);) parts.push_back(part);
  return parts;
}

std::uint64_t number(const std::string& text) {
  std::istringstream stream(text);
  std::uint64_t value = 0;
  check<PeerError>(static_cast<bool>(stream >> value) && stream.eof(),
                   fmt::format("the ranks' table of the watchdog has '{}' where a number belongs", text));
  return value;
}

std::string place_of(const Loss& loss) {
  return loss.block < 0 ? loss.phase : fmt::format("{}, block {}", loss.phase, loss.block);
}

std::string message_of(const Loss& loss, const Verdict& verdict, const WatchdogOptions& options) {
  const std::string who = fmt::format("rank {} on {}", loss.rank, loss.host);
  const std::string where = place_of(loss);
  std::string what;
  switch (loss.cause) {
    case Loss::Cause::closed:
      what = fmt::format(
          "{} is lost in {}: its process was killed or crashed, or its connection broke; it gave "
          "its last sign of life {:.1f} s ago.",
          who, where, loss.seconds);
      break;
    case Loss::Cause::silent:
      what = fmt::format(
          "{} is lost in {}: no sign of life for {:.1f} s (limit {:g} s); its process is stopped, "
          "or the network to its host is down.",
          who, where, loss.seconds, options.lost_seconds);
      break;
    case Loss::Cause::failed:
      what = fmt::format("{} left {} {:.1f} s ago with an error that the other ranks do not share: {}.", who,
                         where, loss.seconds, verdict.text.empty() ? "(no message)" : verdict.text);
      break;
    case Loss::Cause::stuck:
      what = fmt::format(
          "{} is stuck in {}: no rank made progress within {:g} s, and it is the one furthest behind, "
          "for {:.1f} s.",
          who, where, options.stuck_seconds, loss.seconds);
      break;
    case Loss::Cause::stopped:  // it was asked for: there is nothing to advise
      return fmt::format("{} ({}, in {})", verdict.text, who, where);
  }
  return options.advice.empty() ? what : what + " " + options.advice;
}

}  // namespace

std::string encode_member(const Member& member) {
  return fmt::format("{}\t{}\t{}\t{}\t{}", member.host, member.process.host, member.process.node,
                     member.process.pid, member.process.start_time);
}

Member decode_member(const std::string& text) {
  const std::vector<std::string> parts = split(text, '\t');
  check<PeerError>(parts.size() == 5, fmt::format("the ranks' table of the watchdog has a line '{}'", text));
  return {parts[0], {parts[1], parts[2], static_cast<std::int64_t>(number(parts[3])), number(parts[4])}};
}

std::string encode_address(const HubAddress& address) {
  std::string text = std::to_string(address.port);
  for (const std::string& host : address.hosts) text += "\t" + host;
  return text;
}

HubAddress decode_address(const std::string& text) {
  std::vector<std::string> parts = split(text, '\t');
  check<PeerError>(!parts.empty(), "the watchdog's table of addresses lacks one");
  HubAddress address;
  address.port = static_cast<std::uint16_t>(number(parts.front()));
  address.hosts.assign(parts.begin() + 1, parts.end());
  return address;
}

std::string join_lines(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + '\n';
  return text;
}

std::vector<std::string> split_lines(const std::string& text) {
  return split(text, '\n');
}

std::vector<int> choose_hubs(const Roster& roster) {
  std::vector<int> hubs;
  std::set<std::string> hosts;
  for (std::size_t rank = 0; rank < roster.size() && hubs.size() < kHubs; ++rank) {
    if (hosts.insert(roster[rank].host).second) hubs.push_back(static_cast<int>(rank));
  }
  for (int rank = 0; rank < static_cast<int>(roster.size()) && hubs.size() < kHubs; ++rank) {
    if (std::find(hubs.begin(), hubs.end(), rank) == hubs.end()) hubs.push_back(rank);
  }
  std::sort(hubs.begin(), hubs.end());
  return hubs;
}

bool speaks_for_node(const Roster& roster, const std::vector<int>& hubs, int rank) {
  const auto node_of = [&](int of) { return roster[static_cast<std::size_t>(of)].process; };
  for (int lower = 0; lower < rank; ++lower) {
    if (std::find(hubs.begin(), hubs.end(), lower) != hubs.end()) continue;
    if (node_of(lower).host == node_of(rank).host && node_of(lower).node == node_of(rank).node) return false;
  }
  return true;
}

Loss describe(const Verdict& verdict, const Roster& roster, const WatchdogOptions& options) {
  Loss loss;
  loss.cause = verdict.cause;
  loss.rank = verdict.rank;
  const auto rank = static_cast<std::size_t>(verdict.rank);
  loss.host = rank < roster.size() ? roster[rank].host : "an unknown host";
  loss.phase =
      verdict.place.phase < options.phases.size() ? options.phases[verdict.place.phase] : "an unknown phase";
  loss.block = verdict.place.block;
  loss.seconds = verdict.seconds;
  loss.message = message_of(loss, verdict, options);
  return loss;
}

}  // namespace fedspallm::comm::watchdog
