// SPDX-License-Identifier: Apache-2.0
#include "simulate_clock.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::app {

namespace {

constexpr std::size_t kAhead = 5;  // blocks: window_blocks + 3, as Exchange::submit() says

class Clock {
 public:
  Clock(const std::vector<std::vector<bool>>& drawn, const ClientLaws& laws, const ClockOptions& options)
      : drawn_(drawn), laws_(laws), options_(options), clients_(drawn.size()) {
    for (std::uint32_t client = 0; client < drawn.size(); ++client)
      clients_[client].leaves_at = laws.leaves_at(client, blocks()).value_or(blocks());
  }

  VirtualRound run() {
    for (std::int64_t block = 0; block < blocks(); ++block) one_block(block);
    for (const Client& client : clients_)
      round_.compute_seconds = std::max(round_.compute_seconds, client.computed);
    std::ranges::sort(round_.dropped, {}, &comm::Dropped::client);
    return std::move(round_);
  }

 private:
  struct Client {
    double now = 0;       // done with what came before
    double computed = 0;  // of it, computing
    std::int64_t leaves_at = 0;
    bool left = false;
  };
  struct Arrival {
    double time;
    std::uint32_t client;
  };

  [[nodiscard]] std::int64_t blocks() const {
    return drawn_.empty() ? 0 : static_cast<std::int64_t>(drawn_.front().size());
  }

  void one_block(std::int64_t block) {
    const auto index = static_cast<std::size_t>(block);
    const double window = index < kAhead ? 0 : round_.merged[index - kAhead];
    const double before = index == 0 ? 0 : round_.merged[index - 1];
    double heard = 0;  // the last news of who takes part
    std::vector<Arrival> arrivals;
    for (std::uint32_t number = 0; number < clients_.size(); ++number) {
      Client& client = clients_[number];
      if (client.left) continue;
      const bool prunes = drawn_[number][index];
      const double start = std::max(client.now, window);
      if (client.leaves_at == block) {
        drop(number, block, "left", false);
        if (prunes) heard = std::max(heard, start);
        continue;
      }
      const double seconds = laws_.seconds(number, block, prunes ? options_.work.prune : options_.work.pass);
      client.now = start + seconds;
      client.computed += seconds;
      if (prunes) arrivals.push_back({client.now, number});
    }
    const double begin = std::max({before, heard, all_arrived(block, before, arrivals)});
    const auto merged = std::ssize(arrivals);
    if (merged == 0) round_.uncovered.push_back(block);
    const double seconds = merged == 0 ? 0 : options_.merge_seconds(block, merged);
    round_.merge_seconds += seconds;
    round_.merged.push_back(begin + seconds);
    round_.clients.push_back(merged);
  }

  /// When the last of those who count has announced the block; late ones are taken out.
  double all_arrived(std::int64_t block, double before, std::vector<Arrival>& arrivals) {
    if (arrivals.empty()) return 0;
    std::ranges::sort(arrivals, {}, [](const Arrival& one) { return std::pair(one.time, one.client); });
    if (options_.deadline <= 0) return arrivals.back().time;
    const double limit = std::max(arrivals.front().time, before) + options_.deadline;
    const auto late = std::ranges::upper_bound(arrivals, limit, {}, &Arrival::time);
    if (late == arrivals.end()) return arrivals.back().time;
    for (auto one = late; one != arrivals.end(); ++one) drop(one->client, block, "late", true);
    arrivals.erase(late, arrivals.end());
    return limit;
  }

  void drop(std::uint32_t client, std::int64_t block, const char* reason, bool late) {
    clients_[client].left = true;
    round_.dropped.push_back({client, static_cast<std::uint32_t>(block), reason, late});
  }

  const std::vector<std::vector<bool>>& drawn_;
  const ClientLaws& laws_;
  const ClockOptions& options_;
  std::vector<Client> clients_;
  VirtualRound round_;
};

}  // namespace

VirtualRound run_clock(const std::vector<std::vector<bool>>& drawn, const ClientLaws& laws,
                       const ClockOptions& options) {
  for (const auto& of_client : drawn)
    require(of_client.size() == drawn.front().size(), "run_clock: as many blocks for every client");
  require(options.deadline >= 0 && static_cast<bool>(options.merge_seconds),
          "run_clock: a deadline >= 0, and seconds of merges");
  return Clock(drawn, laws, options).run();
}

}  // namespace fedspallm::app
