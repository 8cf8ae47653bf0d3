// SPDX-License-Identifier: Apache-2.0
// A process is known by number and start time; only exactly that one is ever killed.
#include "fedspallm/base/process.hpp"

#include "fedspallm/base/descriptor.hpp"
#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

namespace fedspallm {
namespace {

/// A child that sleeps; killed and reaped at the end. Here once it has its name.
class Child {
 public:
  explicit Child(const char* name = nullptr) {
    int ends[2];
    if (pipe(ends) != 0) throw std::runtime_error("no pipe");
    const Descriptor reader(ends[0]);
    Descriptor writer(ends[1]);
    pid_ = fork();
    if (pid_ == 0) {
      if (name != nullptr) prctl(PR_SET_NAME, name);
      writer.reset();
      for (;;) pause();
    }
    writer.reset();
    char nothing = 0;
    EXPECT_EQ(read(reader.get(), &nothing, 1), 0) << "the end, once the child closed its own";
  }
  ~Child() {
    kill(pid_, SIGKILL);
    reap();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  /// The signal that ended it.
  int reap() {
    int status = 0;
    if (reaped_ || waitpid(pid_, &status, 0) != pid_) return 0;
    reaped_ = true;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }
  [[nodiscard]] ProcessId id() const {
    ProcessId id = this_process();
    id.pid = pid_;
    id.start_time = start_time_of(pid_).value_or(0);
    return id;
  }

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
};

TEST(Process, ThisProcessLivesHere) {
  const ProcessId self = this_process();
  EXPECT_EQ(self.pid, getpid());
  EXPECT_FALSE(self.host.empty());
  EXPECT_GT(self.start_time, 0U);
  EXPECT_TRUE(on_this_node(self));
  EXPECT_TRUE(is_alive(self));
  EXPECT_EQ(self, this_process());
}

TEST(Process, StartTimeIsTicksSinceBoot) {
  double uptime = 0;
  std::ifstream("/proc/uptime") >> uptime;
  const Child child;
  const double started =
      static_cast<double>(child.id().start_time) / static_cast<double>(sysconf(_SC_CLK_TCK));
  EXPECT_NEAR(started, uptime, 5.0);
}

TEST(Process, ANameWithSpacesAndParenthesesDoesNotShiftTheFields) {
  const Child plain;
  const Child odd(") 1 2 (x) Z 3");
  std::string name;
  std::getline(std::ifstream("/proc/" + std::to_string(odd.id().pid) + "/comm"), name);
  ASSERT_EQ(name, ") 1 2 (x) Z 3");
  EXPECT_NEAR(static_cast<double>(odd.id().start_time), static_cast<double>(plain.id().start_time), 100.0);
}

TEST(Process, AnotherHostBootOrStartIsAnotherProcess) {
  ProcessId other = this_process();
  other.host += "x";
  EXPECT_FALSE(on_this_node(other));
  EXPECT_THROW((void)is_alive(other), LogicError);
  other = this_process();
  other.node += "x";
  EXPECT_FALSE(on_this_node(other));
  other = this_process();
  other.start_time += 1;
  EXPECT_FALSE(is_alive(other));
}

TEST(Process, AZombieIsDead) {
  Child child;
  const ProcessId id = child.id();
  EXPECT_TRUE(is_alive(id));
  kill(static_cast<pid_t>(id.pid), SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(id.pid), &info, WEXITED | WNOWAIT), 0);  // dead, not yet reaped
  EXPECT_FALSE(is_alive(id));
  EXPECT_FALSE(kill_process(id));
}

TEST(Process, KillEndsAlsoAStoppedOne) {
  Child child;
  kill(static_cast<pid_t>(child.id().pid), SIGSTOP);
  EXPECT_TRUE(kill_process(child.id()));
  EXPECT_EQ(child.reap(), SIGKILL);
}

TEST(Process, KillSparesAProcessWithAnotherStartTime) {
  const Child child;
  ProcessId id = child.id();
  id.start_time += 1;
  EXPECT_FALSE(kill_process(id));
  EXPECT_TRUE(is_alive(child.id()));
}

TEST(Process, KillRefusesNumbersThatMeanMoreThanOneProcess) {
  ProcessId id = this_process();
  for (const std::int64_t pid : {-1, 0, 1}) {
    id.pid = pid;
    EXPECT_THROW(kill_process(id), LogicError);
  }
}

TEST(SignalsBlocked, KeepsOutsideSignalsFromThreadsStartedMeanwhile) {
  const auto blocked = [](int signal) {
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, nullptr, &now);
    return sigismember(&now, signal) == 1;
  };
  ASSERT_FALSE(blocked(SIGTERM));
  std::thread thread;
  {
    const SignalsBlocked guard;
    thread = std::thread([&] {
      EXPECT_TRUE(blocked(SIGTERM));
      EXPECT_TRUE(blocked(SIGUSR2));
      EXPECT_FALSE(blocked(SIGSEGV));
    });
  }
  thread.join();
  EXPECT_FALSE(blocked(SIGTERM));
}

}  // namespace
}  // namespace fedspallm
