// SPDX-License-Identifier: Apache-2.0
#include "watchdog_thread.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <system_error>

namespace fedspallm::comm::watchdog {

namespace {

constexpr double kStrangerSeconds = 10;       // to say who it is
constexpr std::size_t kMostStrangers = 1024;  // at a time; further callers wait in the system's queue
constexpr double kShortestInterval = 0.05;    // between reports of a rank that moves quickly
constexpr std::size_t kManyPeers = 64;
constexpr std::chrono::milliseconds kBatch{10};
constexpr std::chrono::seconds kHandlerLimit{1};      // where a rank was lost
constexpr std::chrono::seconds kStopHandlerLimit{5};  // where all are well: the outcome may take a slow disk
constexpr std::chrono::milliseconds kPartingLimit{500};
constexpr std::chrono::seconds kStopLimit = kStopHandlerLimit + std::chrono::seconds{2};

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double interval_of(const WatchdogOptions& options) {
  return std::clamp(options.lost_seconds / 10, 0.05, 1.0);
}

/// A hub hears everybody, the others hear the hubs.
std::vector<int> heard_by(const Job& job) {
  if (std::find(job.hubs.begin(), job.hubs.end(), job.rank) == job.hubs.end()) return job.hubs;
  std::vector<int> all(job.roster.size());
  std::iota(all.begin(), all.end(), 0);
  return all;
}

Limits limits_of(const WatchdogOptions& options) {
  return {options.lost_seconds, options.stuck_seconds, 1.0 + interval_of(options)};
}

void print(const Loss& loss) {
  const char* kind = loss.status() == ExitStatus::stopped ? "" : "error: ";
  const std::string line = fmt::format("fedspallm: {}{}\n", kind, loss.message);
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

/// Prints and calls the handler on another thread, for so long at most: standard error or a file system that
/// blocks must not keep this process alive.
void tell(const Loss& loss, const Watchdog::OnLost& on_lost, std::chrono::seconds limit) {
  struct Telling {
    std::mutex mutex;
    std::condition_variable changed;
    bool over = false;
  };
  const auto telling = std::make_shared<Telling>();
  const auto work = [telling, loss, on_lost] {
    if (loss.told_here) print(loss);
    try {
      if (on_lost) on_lost(loss);
    } catch (...) {  // the job ends anyway, and nobody is left to hear of it
    }
    const std::lock_guard lock(telling->mutex);
    telling->over = true;
    telling->changed.notify_one();
  };
  try {
    std::thread(work).detach();
  } catch (const std::system_error&) {  // no thread to be had
    if (loss.told_here) print(loss);
    return;
  }
  std::unique_lock lock(telling->mutex);
  telling->changed.wait_for(lock, limit, [&] { return telling->over; });
}

}  // namespace

Watcher::Watcher(Job job, std::optional<Listener> listener)
    : job_(std::move(job)),
      interval_(interval_of(job_.options)),
      wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      listener_(std::move(listener)),
      clock_(steady_seconds(), interval_ + job_.options.lost_seconds / 4),
      monitor_(heard_by(job_), limits_of(job_.options),
               job_.roster.size() > 1 ? job_.options.connect_seconds : 0) {
  check<LaunchError>(static_cast<bool>(wake_), "watchdog: eventfd failed: too many open files?");
  shared_.last_beat = steady_seconds();
  const SignalsBlocked blocked;
  thread_ = std::jthread([this] { run(); });
}

Watcher::~Watcher() {
  change([](Shared& shared) { shared.stopping = true; });
}

void Watcher::change(const std::function<void(Shared&)>& action) {
  {
    const std::lock_guard lock(mutex_);
    action(shared_);
  }
  wake();
}

void Watcher::wake() {
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);  // fails only when it is already set
}

void Watcher::adopt(int hub, Link link) {
  change([&](Shared& shared) { shared.adopted.emplace_back(hub, std::move(link)); });
}

std::string Watcher::refusal() {
  const std::lock_guard lock(mutex_);
  return shared_.refusal;
}

void Watcher::everybody_is_here() {
  change([](Shared& shared) { shared.everybody_is_here = true; });
}

void Watcher::beat(std::uint16_t phase, std::int64_t block) {
  const double now = steady_seconds();
  {
    const std::lock_guard lock(mutex_);
    if (shared_.state != State::working) return;
    const bool moved = shared_.phase != phase || shared_.block != block;
    shared_.phase = phase;
    shared_.block = block;
    shared_.last_beat = now;
    ++shared_.beats;
    if (!moved) return;  // the next report has it
  }
  wake();
}

void Watcher::failure_known() {
  change([](Shared& shared) { shared.failure_known = true; });
}

void Watcher::finish(const std::optional<std::string>& error) {
  change([&](Shared& shared) {
    if (shared.state != State::working) return;
    shared.state = error ? State::failed : State::finishing;
    shared.error = error.value_or("");
    shared.last_beat = steady_seconds();
    ++shared.beats;
  });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return shared_.done; });
}

void Watcher::stop(const std::string& why) {
  change([&](Shared& shared) {
    shared.state = State::stopped;
    shared.error = why;
  });
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kStopLimit, [&] { return shared_.done; });
}

void Watcher::leave() {
  change([](Shared& shared) { shared.leaving = true; });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return shared_.done; });
}

void Watcher::run() {
  Next next = Next::go_on;
  while (next == Next::go_on) {
    wait_for_events();
    clock_.tick(steady_seconds());
    take_orders();
    accept_callers();
    read_peers();
    send_report();
    drop_broken();
    next = decide();
  }
  listener_.reset();
  peers_.clear();
  const std::lock_guard lock(mutex_);
  shared_.done = true;
  changed_.notify_all();
}

void Watcher::wait_for_events() {
  const auto strangers = static_cast<std::size_t>(
      std::count_if(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.rank < 0; }));
  std::vector<pollfd> items;
  items.reserve(peers_.size() + 2);
  items.push_back({wake_.get(), POLLIN, 0});
  if (listener_ && strangers < kMostStrangers && clock_.now() >= next_accept_)
    items.push_back({listener_->fd(), POLLIN, 0});
  for (const Peer& peer : peers_)
    items.push_back({peer.link.fd(), static_cast<short>(peer.link.waiting() ? POLLIN | POLLOUT : POLLIN), 0});
  const double wait = std::clamp(next_report_ - clock_.now(), 0.0, interval_);
  (void)::poll(items.data(), items.size(), static_cast<int>(std::ceil(wait * 1000)));
  // One pass for many reports, not one for each; only callers are not kept waiting.
  if (peers_.size() > kManyPeers && !listener_) std::this_thread::sleep_for(kBatch);
  std::uint64_t count = 0;
  (void)!::read(wake_.get(), &count, sizeof count);
}

void Watcher::take_orders() {
  const double steady = steady_seconds();
  const std::lock_guard lock(mutex_);
  if (shared_.beats != beats_) {
    beats_ = shared_.beats;
    progress_ = clock_.now() - std::clamp(steady - shared_.last_beat, 0.0, clock_.now() - progress_);
  }
  const bool told = shared_.state == State::working && shared_.failure_known;
  report_ = {told ? State::told : shared_.state, shared_.phase, shared_.block,
             std::max(0.0, clock_.now() - progress_)};
  error_ = shared_.error;
  for (auto& [hub, link] : shared_.adopted) {
    peers_.push_back({std::move(link), hub, clock_.now(), false});
    next_report_ = clock_.now();
  }
  shared_.adopted.clear();
  if (shared_.everybody_is_here) listener_.reset();
  leaving_ = shared_.leaving;
  stopping_ = shared_.stopping;
}

void Watcher::accept_callers() {
  if (!listener_) return;
  std::string refusal;
  try {
    for (std::size_t i = 0; i < kMostStrangers; ++i) {
      Socket caller = listener_->accept();
      if (!caller) break;
      peers_.push_back({Link(std::move(caller)), -1, clock_.now(), false});
    }
  } catch (const LaunchError& error) {
    refusal = error.what();  // they wait in the system's queue and keep the listener readable
    next_accept_ = clock_.now() + interval_;
  }
  const std::lock_guard lock(mutex_);
  shared_.refusal = refusal;
}

void Watcher::read_peers() {
  // By number: a welcome drops an older connection of the same rank by marking it, never by erasing.
  for (std::size_t i = 0; i < peers_.size(); ++i) read_peer(peers_[i]);
}

void Watcher::read_peer(Peer& peer) {
  if (peer.broken) return;
  const bool open = peer.link.receive();
  try {
    while (const auto frame = peer.link.next()) handle(peer, *frame);
  } catch (const DataError&) {
    peer.broken = true;
  }
  peer.link.flush();
  if (!open || (peer.rank < 0 && clock_.now() - peer.since > kStrangerSeconds)) peer.broken = true;
  if (peer.broken && peer.rank >= 0) monitor_.closed(peer.rank, clock_.now());
}

void Watcher::handle(Peer& peer, const Frame& frame) {
  if (peer.rank < 0) {
    welcome(peer, frame);
    return;
  }
  switch (frame.kind) {
    case Kind::report:
      monitor_.heard(peer.rank, decode_report(frame), clock_.now());
      return;
    case Kind::failure:
      monitor_.failure_text(peer.rank, frame.body);
      return;
    case Kind::end:
      if (is_hub(peer.rank) && !told_) told_ = decode_end(frame);
      return;
    case Kind::done:
      done_ = done_ || is_hub(peer.rank);
      return;
    case Kind::goodbye:
      monitor_.said_goodbye(peer.rank);
      return;
    case Kind::hello:
    case Kind::welcome:
      break;
  }
  throw DataError("a watchdog message came out of turn");
}

void Watcher::welcome(Peer& peer, const Frame& frame) {
  const Hello hello = decode_hello(frame);
  check<DataError>(hello.token == job_.tokens.caller, "a watchdog connection is of another job");
  check<DataError>(hello.hub == job_.rank && hello.rank != job_.rank &&
                       static_cast<std::size_t>(hello.rank) < job_.roster.size(),
                   "a watchdog connection is of a rank that does not exist");
  // A rank whose first try was answered too late calls again.
  for (Peer& older : peers_) {
    if (older.rank != hello.rank) continue;
    older.rank = -1;
    older.broken = true;
  }
  peer.rank = hello.rank;
  peer.link.send(encode_welcome(job_.tokens.answer));
}

void Watcher::drop_broken() {
  std::erase_if(peers_, [](const Peer& peer) { return peer.broken; });
}

void Watcher::send_report() {
  const double now = clock_.now();
  monitor_.heard(job_.rank, report_, now);
  const bool has_text = report_.state == State::failed || report_.state == State::stopped;
  if (has_text) monitor_.failure_text(job_.rank, error_);
  // A place that nobody was told of yet is told soon, so that the message about a crash has it.
  if (report_.phase != reported_.phase || report_.block != reported_.block)
    next_report_ = std::min(next_report_, last_report_ + kShortestInterval);
  const bool news = report_.state != reported_.state;
  if (now < next_report_ && !news) return;
  std::string bytes;
  if (news && has_text) bytes = encode_failure(error_);
  bytes += encode_report(report_);
  for (Peer& peer : peers_) {
    // Who does not read gets no more reports, but what matters once waits for it.
    if (peer.rank >= 0 && (news || !peer.link.waiting())) peer.link.send(bytes);
  }
  reported_ = report_;
  last_report_ = now;
  next_report_ = now + interval_;
}

Watcher::Next Watcher::decide() {
  if (told_) conclude(*told_, false);
  if (stopping_) return Next::end;
  if (done_ || leaving_) {
    part();
    return Next::end;
  }
  const int judge = monitor_.in_charge(job_.hubs, job_.rank, clock_.now());
  if (judge != job_.rank && judge != -1) return Next::go_on;
  if (const auto verdict = monitor_.judge(clock_.now()))
    conclude(*verdict, judge == job_.rank || speaks_for_node(job_.roster, job_.hubs, job_.rank));
  if (judge != job_.rank || !monitor_.all_finishing()) return Next::go_on;
  for (Peer& peer : peers_) peer.link.send(encode_bare(Kind::done));
  part();
  return Next::end;
}

void Watcher::part() {
  for (Peer& peer : peers_) {
    if (peer.rank >= 0) peer.link.send(encode_bare(Kind::goodbye));
  }
  const auto end = std::chrono::steady_clock::now() + kPartingLimit;
  const auto waiting = [&] {
    return std::any_of(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.link.waiting(); });
  };
  while (waiting() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(kBatch);
    for (Peer& peer : peers_) peer.link.flush();
  }
}

void Watcher::conclude(const Verdict& verdict, bool speak) {
  const bool stops = verdict.cause == Loss::Cause::stopped;
  Loss loss = describe(verdict, job_.roster, job_.options);
  loss.told_here = speak;
  // Ranks that are told end at once, as does one that is killed, and mpirun then ends this one: what is to be
  // said and written comes first.
  tell(loss, job_.on_lost, stops ? kStopHandlerLimit : kHandlerLimit);
  for (Peer& peer : peers_) {
    if (is_hub(job_.rank) && peer.rank >= 0) peer.link.send(encode_end(verdict));
  }
  // A rank that was not heard is killed now; one that was will hear of the end and leave by itself, with
  // the right status, and is killed only if it did not. One that stops leaves in any case.
  const bool heard = verdict.cause != Loss::Cause::silent && verdict.cause != Loss::Cause::closed;
  if (!heard) kill_remains(verdict.rank);
  for (Peer& peer : peers_) peer.link.flush();
  if (heard && !stops && verdict.rank != job_.rank) {
    std::this_thread::sleep_for(kPartingLimit);
    kill_remains(verdict.rank);
  }
  ::_exit(static_cast<int>(loss.status()));
}

void Watcher::kill_remains(int rank) const {
  if (rank == job_.rank || static_cast<std::size_t>(rank) >= job_.roster.size()) return;
  const ProcessId& process = job_.roster[static_cast<std::size_t>(rank)].process;
  if (process.pid > 1 && on_this_node(process)) (void)kill_process(process);
}

bool Watcher::is_hub(int rank) const {
  return std::find(job_.hubs.begin(), job_.hubs.end(), rank) != job_.hubs.end();
}

}  // namespace fedspallm::comm::watchdog
