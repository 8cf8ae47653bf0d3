// SPDX-License-Identifier: Apache-2.0
// One job at a time: live holders are respected, dead ones are not waited for, a lost lease is noticed.
#include "fedspallm/store/run_lock.hpp"

#include "fedspallm/base/error.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/run_lock_lease.hpp"
#include "support/expect_error.hpp"
#include "support/support.hpp"
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <future>
#include <sstream>
#include <thread>

namespace {
std::atomic<int> flock_fails_with{0};
}

/// Takes libc's place in this test, so that a file system without flock can be played.
extern "C" int flock(int fd, int operation) noexcept {
  if (flock_fails_with.load() != 0) {
    errno = flock_fails_with.load();
    return -1;
  }
  return static_cast<int>(syscall(SYS_flock, fd, operation));
}

namespace fedspallm::store {
namespace {

using std::chrono::milliseconds;
using test::expect_error;

constexpr RunLockOptions kImpatient{0.3, 5, 60};
constexpr RunLockOptions kPatient{120, 5, 60};
constexpr RunLockOptions kBusy{0.3, 0.05, 0.5};

/// A job elsewhere, as far as this machine can tell.
LockHolder elsewhere() {
  LockHolder holder;
  holder.process = {"node17", "another boot", 4711, 99};
  holder.job = "123";
  holder.restarts = 2;
  holder.launch = "abcdef";
  return holder;
}

class RunLockTest : public testing::Test {
 protected:
  ~RunLockTest() override { flock_fails_with = 0; }

  [[nodiscard]] std::filesystem::path dir() const { return folder_.path() / "run"; }
  [[nodiscard]] std::filesystem::path lease() const { return dir() / ".lease.json"; }
  /// In one step: a lock that looks meanwhile sees the file before or this one.
  void write_lease(const std::string& text, std::chrono::seconds age = {}) const {
    std::filesystem::create_directories(dir());
    const std::filesystem::path draft = folder_.path() / "draft";
    std::ofstream(draft) << text;
    std::filesystem::last_write_time(draft, std::filesystem::file_time_type::clock::now() - age);
    std::filesystem::rename(draft, lease());
  }
  void make_older(std::chrono::seconds age) const {
    std::filesystem::last_write_time(lease(), std::filesystem::file_time_type::clock::now() - age);
  }
  [[nodiscard]] std::optional<Lease> written() const {
    std::ostringstream text;
    text << std::ifstream(lease()).rdbuf();
    return decode_lease(text.str());
  }
  void expect_locked(const std::vector<std::string>& fragments, const LockHolder& self) const {
    expect_error<LockedError>([&] { const RunLock lock(dir(), {}, kImpatient, self); }, fragments);
  }
  void expect_locked(const std::vector<std::string>& fragments) const {
    expect_locked(fragments, LockHolder::this_process());
  }

 private:
  test::TemporaryFolder folder_;
};

/// Another process that holds the lock until it is killed or told to let go.
class OtherProcess {
 public:
  explicit OtherProcess(const std::filesystem::path& dir) {
    std::array<int, 2> ready{};
    std::array<int, 2> let_go{};
    if (pipe(ready.data()) != 0 || pipe(let_go.data()) != 0) throw std::runtime_error("pipe");
    pid_ = fork();
    char byte = 0;
    if (pid_ == 0) {
      close(let_go[1]);
      try {
        const RunLock lock(dir, {}, kImpatient);
        (void)!write(ready[1], &byte, 1);
        (void)!read(let_go[0], &byte, 1);  // returns when the parent closes its end
      } catch (const std::exception&) {
        _exit(1);
      }
      _exit(0);
    }
    close(ready[1]);
    close(let_go[0]);
    let_go_ = let_go[1];
    holds_ = read(ready[0], &byte, 1) == 1;
    close(ready[0]);
  }
  ~OtherProcess() {
    if (pid_ > 0) end(SIGKILL);
    if (let_go_ >= 0) close(let_go_);
  }
  OtherProcess(const OtherProcess&) = delete;
  OtherProcess& operator=(const OtherProcess&) = delete;
  void end(int signal) {
    kill(pid_, signal);
    wait();
  }
  void let_go() {
    close(std::exchange(let_go_, -1));
    wait();
  }
  [[nodiscard]] bool holds() const { return holds_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  void wait() {
    int status = 0;
    waitpid(std::exchange(pid_, 0), &status, 0);
  }
  pid_t pid_ = 0;
  int let_go_ = -1;
  bool holds_ = false;
};

TEST_F(RunLockTest, SaysWhoHoldsItAndLetsGo) {
  const LockHolder self = LockHolder::this_process();
  {
    const RunLock lock(dir(), {}, kImpatient, self);
    EXPECT_FALSE(lock.lease_only());
    EXPECT_EQ(lock.taken_over(), "");
    const auto seen = written();
    ASSERT_TRUE(seen.has_value());
    EXPECT_EQ(seen->holder.process, this_process());
    EXPECT_EQ(seen->holder.launch, self.launch);
    EXPECT_THAT(seen->since, testing::MatchesRegex("20..-..-.. ..:..:.. UTC"));
  }
  EXPECT_FALSE(std::filesystem::exists(lease()));
  const RunLock again(dir(), {}, kImpatient);
  EXPECT_EQ(again.taken_over(), "");
}

TEST_F(RunLockTest, LeavesNoDraftBehind) {
  { const RunLock lock(dir(), {}, kImpatient); }
  write_lease(encode_lease({elsewhere(), "today"}));
  expect_locked({});
  for (const auto& entry : std::filesystem::directory_iterator(dir()))
    EXPECT_NE(entry.path().extension(), ".part") << entry.path();
}

TEST_F(RunLockTest, TheSameProcessCannotTakeItTwice) {
  const RunLock lock(dir(), {}, kImpatient);
  expect_locked({fmt::format("process {} on", getpid())});
}

TEST_F(RunLockTest, AnotherProcessKeepsItAndIsNamed) {
  const OtherProcess other(dir());
  ASSERT_TRUE(other.holds());
  expect_locked({dir().string(), fmt::format("process {} on {}", other.pid(), this_process().host),
                 "since 20", "waited 0.3 s"});
}

TEST_F(RunLockTest, WaitsForTheOtherToLetGo) {
  OtherProcess other(dir());
  ASSERT_TRUE(other.holds());
  auto later = std::async(std::launch::async, [&] {
    std::this_thread::sleep_for(milliseconds(300));
    other.let_go();
  });
  EXPECT_NO_THROW(const RunLock lock(dir(), {}, kPatient));
}

TEST_F(RunLockTest, AKilledProcessIsNotWaitedFor) {
  OtherProcess other(dir());
  ASSERT_TRUE(other.holds());
  const pid_t pid = other.pid();
  other.end(SIGKILL);
  ASSERT_TRUE(std::filesystem::exists(lease()));
  const RunLock lock(dir(), {}, RunLockOptions{0, 5, 60});
  EXPECT_THAT(lock.taken_over(), testing::HasSubstr(fmt::format("process {} on", pid)));
  EXPECT_THAT(lock.taken_over(), testing::HasSubstr("is dead"));
}

TEST_F(RunLockTest, AStoppedProcessOfThisNodeIsNotRobbed) {
  const OtherProcess other(dir());
  ASSERT_TRUE(other.holds());
  kill(other.pid(), SIGSTOP);  // it may go on at any time
  make_older(std::chrono::seconds(1000));
  expect_locked({fmt::format("process {} on", other.pid())});
}

TEST_F(RunLockTest, AFreshLeaseOfAnotherHostIsRespected) {
  write_lease(encode_lease({elsewhere(), "2026-01-02 03:04:05 UTC"}), std::chrono::seconds(20));
  expect_locked({"process 4711 on node17 (job 123) since 2026-01-02 03:04:05 UTC", "ago"});
  ASSERT_TRUE(written().has_value());
  EXPECT_EQ(written()->holder.launch, "abcdef");
}

TEST_F(RunLockTest, AnOldLeaseOfAnotherHostIsTakenOver) {
  write_lease(encode_lease({elsewhere(), "today"}), std::chrono::seconds(61));
  const RunLock lock(dir(), {}, kImpatient);
  EXPECT_THAT(lock.taken_over(),
              testing::ContainsRegex(
                  "process 4711 on node17 has not renewed it for (6[1-9]|[7-9][0-9]|[1-9][0-9][0-9]) s"));
  EXPECT_EQ(written()->holder.process, this_process());
}

TEST_F(RunLockTest, AnEarlierStartOfTheSameJobIsOver) {
  LockHolder self = LockHolder::this_process();
  self.job = "123";
  for (const std::int64_t restarts : {0, 2}) {  // the lease is of the second restart
    self.restarts = restarts;
    write_lease(encode_lease({elsewhere(), "today"}));
    expect_locked({"job 123"}, self);
  }
  self.job = "124";
  self.restarts = 3;
  expect_locked({"job 123"}, self);
  self.job = "123";
  const RunLock lock(dir(), {}, kImpatient, self);
  EXPECT_THAT(lock.taken_over(), testing::HasSubstr("job 123 was started again"));
}

TEST_F(RunLockTest, AJobWithoutACountOfRestartsThatIsSilentElsewhereIsOver) {
  LockHolder self = LockHolder::this_process();
  self.job = "123.pbs";
  LockHolder before = elsewhere();
  before.job = self.job;
  before.restarts = self.restarts = 0;
  write_lease(encode_lease({before, "today"}));
  expect_locked({"job 123.pbs"}, self);  // it may be a second command of the same job, and alive
  write_lease(encode_lease({before, "today"}), std::chrono::seconds(16));
  LockHolder other = self;
  other.job = "124.pbs";
  expect_locked({"job 123.pbs"}, other);
  const RunLock lock(dir(), {}, kImpatient, self);
  EXPECT_THAT(lock.taken_over(),
              testing::HasSubstr("job 123.pbs was started again on another host: process 4711"));
}

TEST_F(RunLockTest, AFileThatIsNoLeaseHoldsForAsLong) {
  write_lease("{\"format_version\":");
  expect_locked({"has not said who it is"});
  make_older(std::chrono::seconds(61));
  const RunLock lock(dir(), {}, kImpatient);
  EXPECT_THAT(lock.taken_over(), testing::HasSubstr("an unknown process has not renewed it"));
}

TEST_F(RunLockTest, AFlockOfAnUnknownProcessIsRespected) {
  std::filesystem::create_directories(dir());
  const int fd = open((dir() / ".lock").c_str(), O_RDWR | O_CREAT, 0666);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  expect_locked({"another process, which has not said who it is"});
  // A server still holds the flock of a host that is gone.
  write_lease(encode_lease({elsewhere(), "today"}), std::chrono::seconds(61));
  const RunLock lock(dir(), {}, kImpatient);
  EXPECT_TRUE(lock.lease_only());
  close(fd);
}

TEST_F(RunLockTest, WithoutFlockTheLeaseAloneHolds) {
  for (const int code : {ENOLCK, ENOTSUP, ENOSYS}) {
    flock_fails_with = code;
    const RunLock lock(dir(), {}, kImpatient);
    EXPECT_TRUE(lock.lease_only());
    expect_locked({fmt::format("process {} on", getpid())});
  }
}

TEST_F(RunLockTest, WithoutFlockAKilledProcessIsNotWaitedFor) {
  flock_fails_with = ENOLCK;
  OtherProcess other(dir());
  ASSERT_TRUE(other.holds());
  expect_locked({fmt::format("process {} on", other.pid())});
  other.end(SIGKILL);
  const RunLock lock(dir(), {}, kImpatient);
  EXPECT_TRUE(lock.lease_only());
  EXPECT_THAT(lock.taken_over(), testing::HasSubstr("is dead"));
}

TEST_F(RunLockTest, AnotherFailureOfFlockIsToldWithThePath) {
  flock_fails_with = EIO;
  expect_error<ResourceError>([&] { const RunLock lock(dir(), {}, kImpatient); },
                              {(dir() / ".lock").string(), "cannot be locked", "Input/output error"});
}

TEST_F(RunLockTest, RenewsTheLease) {
  const RunLock lock(dir(), {}, RunLockOptions{0, 0.05, 60});
  make_older(std::chrono::seconds(50));
  const auto old = std::filesystem::last_write_time(lease());
  for (int i = 0; i < 2000 && std::filesystem::last_write_time(lease()) == old; ++i)
    std::this_thread::sleep_for(milliseconds(50));
  EXPECT_GT(std::filesystem::last_write_time(lease()), old + std::chrono::seconds(40));
}

TEST_F(RunLockTest, PutsARemovedLeaseBack) {
  const RunLock lock(
      dir(), [](const std::string& message) { ADD_FAILURE() << message; }, RunLockOptions{0, 0.05, 60});
  std::filesystem::remove(lease());
  for (int i = 0; i < 2000 && !std::filesystem::exists(lease()); ++i)
    std::this_thread::sleep_for(milliseconds(50));
  ASSERT_TRUE(written().has_value());
  EXPECT_EQ(written()->holder.process, this_process());
}

TEST_F(RunLockTest, NoticesThatAnotherTookItOver) {
  std::promise<std::string> told;
  {
    const RunLock lock(
        dir(), [&](const std::string& message) { told.set_value(message); }, kBusy);
    write_lease(encode_lease({elsewhere(), "today"}));
    auto future = told.get_future();
    ASSERT_EQ(future.wait_for(std::chrono::seconds(120)), std::future_status::ready);
    EXPECT_EQ(future.get(), dir().string() + ": process 4711 on node17 took the lock of this directory over");
  }
  ASSERT_TRUE(written().has_value());  // not ours to remove
  EXPECT_EQ(written()->holder.launch, "abcdef");
}

TEST_F(RunLockTest, TellsWhenItCannotRenewForTooLong) {
  std::promise<std::string> told;
  const RunLock lock(
      dir(), [&](const std::string& message) { told.set_value(message); }, kBusy);
  std::filesystem::rename(dir(), dir().string() + "-gone");  // at once: the lock may be writing in it
  auto future = told.get_future();
  ASSERT_EQ(future.wait_for(std::chrono::seconds(120)), std::future_status::ready);
  EXPECT_THAT(future.get(), testing::HasSubstr("could not be renewed for 0.5 s"));
}

TEST_F(RunLockTest, ADirectoryThatCannotBeMadeIsToldWithItsPath) {
  std::filesystem::create_directories(dir().parent_path());
  std::ofstream(dir()) << "a file";
  expect_error<ResourceError>([&] { const RunLock lock(dir(), {}, kImpatient); }, {dir().string()});
}

TEST_F(RunLockTest, PreconditionsAreChecked) {
  EXPECT_THROW(RunLock(dir(), {}, RunLockOptions{-1, 5, 60}), LogicError);
  EXPECT_THROW(RunLock(dir(), {}, RunLockOptions{1, 0, 60}), LogicError);
  EXPECT_THROW(RunLock(dir(), {}, RunLockOptions{1, 60, 60}), LogicError);
}

TEST(LockHolder, TakesJobAndRestartsFromTheBatchSystem) {
  for (const char* name : {"SLURM_JOB_ID", "SLURM_RESTART_COUNT", "PBS_JOBID", "LSB_JOBID"}) unsetenv(name);
  const LockHolder alone = LockHolder::this_process();
  EXPECT_EQ(alone.job, "");
  EXPECT_EQ(alone.restarts, 0);
  EXPECT_EQ(alone.launch.size(), 32U);
  EXPECT_NE(alone.launch, LockHolder::this_process().launch);
  setenv("PBS_JOBID", "9.server", 1);
  EXPECT_EQ(LockHolder::this_process().job, "9.server");
  setenv("SLURM_JOB_ID", "77", 1);
  setenv("SLURM_RESTART_COUNT", "3", 1);
  EXPECT_EQ(LockHolder::this_process().job, "77");
  EXPECT_EQ(LockHolder::this_process().restarts, 3);
  setenv("SLURM_RESTART_COUNT", "many", 1);
  EXPECT_EQ(LockHolder::this_process().restarts, 0);
  for (const char* name : {"SLURM_JOB_ID", "SLURM_RESTART_COUNT", "PBS_JOBID"}) unsetenv(name);
}

TEST(LeaseText, GoesThereAndBack) {
  const auto back = decode_lease(encode_lease({elsewhere(), "today"}));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->holder.process, elsewhere().process);
  EXPECT_EQ(back->holder.job, "123");
  EXPECT_EQ(back->holder.restarts, 2);
  EXPECT_EQ(back->holder.launch, "abcdef");
  EXPECT_EQ(back->since, "today");
}

TEST(LeaseText, WhatIsNoLeaseIsNothing) {
  std::string good = encode_lease({elsewhere(), "today"});
  for (const std::string text : {"", "[]", "null", "{}", "\xff\xfe", "{\"format_version\": 1}"})
    EXPECT_FALSE(decode_lease(text).has_value()) << text;
  EXPECT_FALSE(decode_lease(good.substr(0, good.size() / 2)).has_value());
  const auto swapped = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_FALSE(decode_lease(swapped("4711", "\"4711\"")).has_value());
  EXPECT_FALSE(decode_lease(swapped("\"node17\"", "17")).has_value());
  EXPECT_FALSE(decode_lease(swapped("\"format_version\": 1", "\"format_version\": 2")).has_value());
}

}  // namespace
}  // namespace fedspallm::store
