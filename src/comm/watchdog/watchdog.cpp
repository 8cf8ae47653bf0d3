// SPDX-License-Identifier: Apache-2.0
// The collective start of the watchdog: who is where, which ranks are hubs, and how they are reached. From
// there on MPI is not used.
#include "fedspallm/comm/watchdog.hpp"

#include "watchdog_thread.hpp"
#include <algorithm>
#include <limits>
#include <random>
#include <sstream>

namespace fedspallm::comm {

namespace {

using namespace watchdog;

/// Of each other rank: the watchdog's own connection, and two of Open MPI's.
constexpr std::uint64_t kDescriptorsPerRank = 3;
constexpr std::uint64_t kOtherDescriptors = 256;  // files

void check_options(const WatchdogOptions& options) {
  require(!options.phases.empty(), "watchdog: phases are not empty");
  require(options.phases.size() <= std::numeric_limits<std::uint16_t>::max(),
          "watchdog: at most 65535 phases");
  require(options.lost_seconds >= 0, "watchdog: 0 <= lost_seconds");
  require(options.stuck_seconds >= options.lost_seconds, "watchdog: lost_seconds <= stuck_seconds");
  require(options.connect_seconds > 0, "watchdog: 0 < connect_seconds");
}

/// Everybody's text on every rank.
std::vector<std::string> everybodys(Communicator& communicator, const std::string& own) {
  return split_lines(communicator.broadcast(join_lines(communicator.gather(own))));
}

Roster exchange_roster(Communicator& communicator) {
  const Member self{communicator.host(), this_process()};
  Roster roster;
  for (const std::string& line : everybodys(communicator, encode_member(self)))
    roster.push_back(decode_member(line));
  return roster;
}

Tokens exchange_tokens(Communicator& communicator) {
  std::random_device device;  // the system's generator
  const auto word = [&] { return (std::uint64_t{device()} << 32) | device(); };
  const Tokens own{{word(), word()}, {word(), word()}};
  const std::string text = communicator.broadcast(
      fmt::format("{} {} {} {}", own.caller[0], own.caller[1], own.answer[0], own.answer[1]));
  Tokens tokens;
  std::istringstream(text) >> tokens.caller[0] >> tokens.caller[1] >> tokens.answer[0] >> tokens.answer[1];
  return tokens;
}

bool among(const std::vector<int>& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

}  // namespace

struct Watchdog::Impl {
  std::vector<std::string> phases;
  std::unique_ptr<Watcher> watcher;  // null: switched off

  void connect(Communicator& communicator, Job job);
};

void Watchdog::Impl::connect(Communicator& communicator, Job job) {
  const int rank = job.rank;
  const std::vector<int> hubs = job.hubs;
  const std::chrono::duration<double> limit(job.options.connect_seconds);
  std::optional<Listener> listener;
  communicator.together([&] {
    // The others have no such connections, but those of Open MPI come one by one as they are needed.
    const bool is_hub = among(hubs, rank);
    allow_descriptors(is_hub ? kDescriptorsPerRank * job.roster.size() + kOtherDescriptors : 0);
    if (!is_hub) return;
    listener.emplace(communicator.node_size() == communicator.size());
  });
  const auto addresses =
      everybodys(communicator, listener ? encode_address(listener->address()) : std::string("0"));
  const Tokens tokens = exchange_tokens(communicator);
  job.tokens = tokens;
  communicator.together([&] { watcher = std::make_unique<Watcher>(std::move(job), std::move(listener)); });
  try {
    communicator.together([&] {
      for (const int hub : hubs) {
        if (hub == rank || (among(hubs, rank) && hub > rank)) continue;  // of two hubs the higher one calls
        const HubAddress address = decode_address(addresses.at(static_cast<std::size_t>(hub)));
        watcher->adopt(hub, reach(address, {tokens.caller, rank, hub}, tokens.answer, limit));
      }
    });
  } catch (const Error&) {
    const std::string refusal = watcher->refusal();
    watcher->leave();
    // What a hub knows about itself is why others did not reach it.
    communicator.together([&] { check<LaunchError>(refusal.empty(), refusal); });
    throw;
  }
  watcher->everybody_is_here();
}

Watchdog::Watchdog(Communicator& communicator, WatchdogOptions options, OnLost on_lost)
    : impl_(std::make_unique<Impl>()) {
  check_options(options);
  impl_->phases = options.phases;
  if (options.lost_seconds == 0) return;
  Job job;
  job.rank = communicator.rank();
  job.roster = exchange_roster(communicator);
  job.hubs = choose_hubs(job.roster);
  job.options = std::move(options);
  job.on_lost = std::move(on_lost);
  if (communicator.size() == 1) {
    impl_->watcher = std::make_unique<Watcher>(std::move(job), std::nullopt);
  } else {
    impl_->connect(communicator, std::move(job));
  }
}

Watchdog::~Watchdog() = default;

void Watchdog::beat(std::string_view phase, std::int64_t block) {
  const auto found = std::find(impl_->phases.begin(), impl_->phases.end(), phase);
  require(found != impl_->phases.end(), "watchdog: beat() with a phase of the options");
  if (impl_->watcher == nullptr) return;
  impl_->watcher->beat(static_cast<std::uint16_t>(found - impl_->phases.begin()), block);
}

void Watchdog::failure_known() {
  if (impl_->watcher != nullptr) impl_->watcher->failure_known();
}

void Watchdog::finish() {
  if (impl_->watcher != nullptr) impl_->watcher->finish(std::nullopt);
}

void Watchdog::finish(const Error& failure) {
  if (impl_->watcher != nullptr) impl_->watcher->finish(failure.what());
}

void Watchdog::stop(const std::string& why) {
  if (impl_->watcher != nullptr) impl_->watcher->stop(why);
}

}  // namespace fedspallm::comm
