// SPDX-License-Identifier: Apache-2.0
// Purpose: main of the tests that run under mpirun. Every rank runs every test; failures are printed with the
// rank; the outcome is the worst of all ranks; a test that hangs is named and ends the job instead of eating
// ctest's time limit.
#include "fedspallm/comm/communicator.hpp"

#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#if defined(__SANITIZE_ADDRESS__)
// Open MPI unloads plug-ins that still own memory; kept loaded, their leaks can be named and left out.
extern "C" int dlclose(void*) {
  return 0;
}
extern "C" const char* __asan_default_options() {
  return "fast_unwind_on_malloc=0";
}
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libopen-rte.so\nleak:libopen-pal.so\nleak:libmpi.so\nleak:libpmix.so\nleak:mca_\nleak:libuct_"
         "ib.so\n"
         "leak:librdmacm.so\n";
}
#endif

namespace {

// Far beyond what any test needs on a machine that is ten times overloaded: only a hang is to be told from an
// end.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::chrono::seconds kHangLimit{900};  // such builds are several times slower
#else
constexpr std::chrono::seconds kHangLimit{300};
#endif

/// Prints failures of ranks > 0, which have no result printer, with the rank; watches the time of each test.
class RankListener : public testing::EmptyTestEventListener {
 public:
  explicit RankListener(int rank) : rank_(rank), watchdog_([this](std::stop_token stop) { watch(stop); }) {}

  void OnTestStart(const testing::TestInfo& info) override {
    const std::lock_guard lock(mutex_);
    name_ = std::string(info.test_suite_name()) + "." + info.name();
    started_ = std::chrono::steady_clock::now();
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "[rank %d] %s: %s:%d: %s\n", rank_, name_.c_str(),
                 result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                 result.message());
  }
  void OnTestEnd(const testing::TestInfo&) override {
    const std::lock_guard lock(mutex_);
    started_.reset();
  }

 private:
  void watch(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, stop, std::chrono::milliseconds(200),
                              [&] { return stop.stop_requested(); })) {
      if (!started_ || std::chrono::steady_clock::now() - *started_ < kHangLimit) continue;
      std::fprintf(stderr, "[rank %d] %s hangs (over %lld s): aborting\n", rank_, name_.c_str(),
                   static_cast<long long>(kHangLimit.count()));
      std::abort();
    }
  }

  int rank_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::string name_;
  std::optional<std::chrono::steady_clock::time_point> started_;
  std::jthread watchdog_;  // last: it uses the others
};

/// `--gtest_list_tests` must work without a launcher, so that CMake can ask.
bool only_lists(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--gtest_list_tests") == 0) return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const bool listing = only_lists(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  if (listing) return RUN_ALL_TESTS();

  const fedspallm::comm::MpiSession session(argc, argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (rank != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new RankListener(rank));

  const int own = RUN_ALL_TESTS();
  int worst = own;
  MPI_Allreduce(&own, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  return worst;
}
