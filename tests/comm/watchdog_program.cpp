// SPDX-License-Identifier: Apache-2.0
// Purpose: a small MPI program under the watchdog in which one rank does something bad at a chosen place;
// watchdog_test.py starts it and looks at what becomes of it.
//   watchdog_program FOLDER MODE VICTIM PHASE LOST_SECONDS STUCK_SECONDS
// In FOLDER it leaves pid.R, when (the victim's moment on the monotonic clock) and lost.R (what on_lost
// said).
#include "fedspallm/aggregate/shared_merge.hpp"
#include "fedspallm/comm/node_memory.hpp"
#include "fedspallm/comm/watchdog.hpp"

#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

namespace {

using namespace fedspallm;
using comm::Communicator;
using comm::Loss;
using comm::Watchdog;

constexpr std::int64_t kBlocks = 6;
constexpr std::int64_t kBadBlock = 3;
constexpr std::chrono::milliseconds kWork{30};

struct Plan {
  std::filesystem::path folder;
  std::string mode;
  int victim = 0;
  std::string phase;
  double lost = 2;
  double stuck = 4;
};

void pause_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

void note(const std::filesystem::path& file, const std::string& text) {
  std::ofstream stream(file.string() + ".part");
  stream << text << '\n';
  stream.close();
  std::filesystem::rename(file.string() + ".part", file);
}

void note_loss(const Plan& plan, int rank, const Loss& loss) {
  constexpr std::array<const char*, 5> names = {"silent", "closed", "failed", "stuck", "stopped"};
  if (plan.mode == "leave" && rank == 0) pause_for(1.5);  // as on a slow disk
  note(plan.folder / ("lost." + std::to_string(rank)),
       fmt::format("{} {} {} {} {}", names.at(static_cast<std::size_t>(loss.cause)), loss.rank, loss.phase,
                   loss.block, loss.told_here ? "told" : "quiet"));
  if (plan.mode == "slow-handler") pause_for(60);  // the watchdog must not wait for it
}

void note_moment(const Plan& plan) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  note(plan.folder / "when", fmt::format("{}", std::chrono::duration<double>(now).count()));
}

/// What only the victim does, in the bad block.
void be_bad(const Plan& plan, Watchdog& watchdog) {
  pause_for(0.5);  // until the others know the place
  note_moment(plan);
  if (plan.mode == "kill" || plan.mode == "slow-handler") std::raise(SIGKILL);
  if (plan.mode == "stop") std::raise(SIGSTOP);
  if (plan.mode == "throw" || plan.mode == "unwind") throw DataError("the victim's own error");
  if (plan.mode == "terminate") std::thread([] { throw std::runtime_error("nobody catches this"); }).join();
  if (plan.mode == "loop") {
    for (;;) pause_for(1);
  }
  if (plan.mode == "exit") ::_exit(9);
  if (plan.mode == "leave") watchdog.stop("enough");
}

/// The victim is killed while it holds a stripe of the state to which all add; the others wait for it.
void add_to_one_state(const Plan& plan, Communicator& communicator) {
  const comm::NodeMemory memory(communicator, communicator.host_leaders(),
                                aggregate::SharedMerge::bytes(8, 8));
  aggregate::SharedMerge shared(memory.state(0), 8, 8, {}, {});
  if (communicator.rank() == 0) shared.clear();
  communicator.barrier();
  if (communicator.rank() == plan.victim) {
    std::atomic_ref(*reinterpret_cast<std::uint32_t*>(memory.state(0).data())) =
        1;  // the first stripe's word
    note_moment(plan);
    std::raise(SIGKILL);
  }
  pause_for(0.2);
  (void)shared.add({}, {0, 1}, [] { return true; });
}

void work(const Plan& plan, Communicator& communicator, Watchdog& watchdog) {
  for (const std::string phase : {"setup", "pruning", "saving"}) {
    for (std::int64_t block = 0; block < kBlocks; ++block) {
      watchdog.beat(phase, block);
      std::this_thread::sleep_for(kWork);
      const bool bad = phase == plan.phase && block == kBadBlock;
      if (bad && communicator.rank() == plan.victim) be_bad(plan, watchdog);
      if (bad && plan.mode == "stripe") add_to_one_state(plan, communicator);
      if (bad && plan.mode == "known") {  // by all, but the victim is at work for longer than the limit
        watchdog.failure_known();
        if (communicator.rank() == plan.victim) pause_for(2 * plan.lost);
        throw DataError("an error of all ranks");
      }
      if (bad && plan.mode == "shared") throw DataError("an error of all ranks");
      // Longer than the limit for a lost rank, without a beat: slow is not lost.
      if (bad && plan.mode == "slow") pause_for(communicator.rank() == plan.victim ? 1.5 * plan.lost : 0);
      watchdog.beat(phase, block);  // so that who waits for another rank is not taken for the stuck one
      communicator.barrier();
    }
  }
  // The others go on for longer than both limits; one of them beats.
  if (plan.mode == "early" && communicator.rank() != plan.victim) {
    for (double waited = 0; waited < 1.2 * plan.stuck; waited += 0.2) {
      watchdog.beat("saving", kBlocks);
      pause_for(0.2);
    }
  }
}

/// As the program's main does it: an error is told to the watchdog before it is printed.
int run(const Plan& plan, Communicator& communicator) {
  const int rank = communicator.rank();
  comm::WatchdogOptions options;
  options.phases = {"setup", "pruning", "saving"};
  options.lost_seconds = plan.lost;
  options.stuck_seconds = plan.stuck;
  options.advice = "Start it again.";
  Watchdog watchdog(communicator, options, [&](const Loss& loss) { note_loss(plan, rank, loss); });
  try {
    work(plan, communicator, watchdog);
  } catch (const Error& error) {
    if (plan.mode == "unwind") throw;
    watchdog.finish(error);
    if (rank == 0) std::fprintf(stderr, "program: error: %s\n", error.what());
    return static_cast<int>(error.status());
  }
  watchdog.finish();
  watchdog.finish();  // a second call does nothing
  watchdog.beat("saving");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGTERM, SIG_IGN);  // the program takes it for a wish to stop soon; mpirun sends it first
  const comm::MpiSession session(argc, argv);
  if (argc != 7) return 2;
  const Plan plan{argv[1], argv[2], std::stoi(argv[3]), argv[4], std::stod(argv[5]), std::stod(argv[6])};
  Communicator communicator;
  note(plan.folder / ("pid." + std::to_string(communicator.rank())), std::to_string(::getpid()));
  try {
    return run(plan, communicator);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "program: %s\n", error.what());
    return 1;  // MPI_Finalize comes now, and waits for the others
  }
}
