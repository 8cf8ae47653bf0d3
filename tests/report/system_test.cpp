// SPDX-License-Identifier: Apache-2.0
// Facts are read from made-up /proc and cgroup folders, where the answer is known, and once from this
// machine.
#include "fedspallm/report/system.hpp"

#include "fedspallm/base/error.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "support/support.hpp"
#include <fstream>
#include <map>
#include <vector>

namespace fedspallm::report {
namespace {

using ::testing::MatchesRegex;
using ::testing::StartsWith;

constexpr std::int64_t kMebi = 1 << 20;

/// A made-up machine.
class Machine {
 public:
  void file(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((folder_.path() / path).parent_path());
    std::ofstream(folder_.path() / path) << text;
  }
  void variable(const std::string& name, const std::string& value) { variables_[name] = value; }
  [[nodiscard]] std::filesystem::path path(const std::string& inner) const { return folder_.path() / inner; }
  [[nodiscard]] SystemSources sources() const {
    return {.proc = folder_.path() / "proc",
            .cgroup = folder_.path() / "cgroup",
            .variable = [this](const char* name) {
              const auto found = variables_.find(name);
              return found == variables_.end() ? nullptr : found->second.c_str();
            }};
  }

 private:
  test::TemporaryFolder folder_;
  std::map<std::string, std::string> variables_;
};

/// 1,000 MiB available by the kernel, cgroup version 2 at /job/step.
void add_usual_files(Machine& machine) {
  machine.file("proc/meminfo", "MemTotal:       4096000 kB\nMemAvailable:   1024000 kB\n");
  machine.file("proc/self/cgroup", "0::/job/step\n");
}

TEST(Memory, ReadsTheResidentSetOfThisProcess) {
  Machine machine;
  machine.file("proc/self/status",
               "Name:\tfedspallm\nVmPeak:\t  999 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n");
  EXPECT_EQ(peak_rss_bytes(machine.sources()), 2 * kMebi);
  EXPECT_EQ(rss_bytes(machine.sources()), kMebi);
  EXPECT_EQ(peak_rss_bytes(Machine().sources()), 0) << "unknown";
}

TEST(Memory, ThePeakGrowsWithWhatIsTouched) {
  const std::int64_t before = rss_bytes();
  ASSERT_GT(before, 0);
  {
    const std::vector<char> touched(64 * kMebi, 'x');
    EXPECT_GT(rss_bytes(), before + 32 * kMebi);
  }
  EXPECT_GE(peak_rss_bytes(), before + 32 * kMebi);
}

TEST(Memory, WithoutLimitsWhatTheKernelCallsAvailableIsLeft) {
  Machine machine;
  add_usual_files(machine);
  const MemoryLimit limit = available_memory(machine.sources());
  EXPECT_EQ(limit.bytes, 1000 * kMebi);
  EXPECT_EQ(limit.source, "MemAvailable");
  EXPECT_EQ(available_memory_bytes(machine.sources()), limit.bytes);
}

TEST(Memory, HonoursTheTightestOfNestedCgroupsVersion2) {
  Machine machine;
  add_usual_files(machine);
  machine.file("cgroup/job/step/memory.max", "max\n");
  machine.file("cgroup/job/memory.max", std::to_string(500 * kMebi) + "\n");
  machine.file("cgroup/job/memory.current", std::to_string(300 * kMebi) + "\n");
  MemoryLimit limit = available_memory(machine.sources());
  EXPECT_EQ(limit.bytes, 200 * kMebi);
  EXPECT_EQ(limit.source, "cgroup " + machine.path("cgroup/job").string());
  machine.file("cgroup/job/memory.stat", "anon 5\ninactive_file " + std::to_string(100 * kMebi) +
                                             "\nactive_file " + std::to_string(50 * kMebi) +
                                             "\ninactive_file_x 7\n");
  EXPECT_EQ(available_memory_bytes(machine.sources()), 350 * kMebi) << "page cache can be taken back";
  machine.file("cgroup/job/memory.current", std::to_string(900 * kMebi) + "\n");
  EXPECT_EQ(available_memory_bytes(machine.sources()), 0) << "never negative";
}

TEST(Memory, HonoursCgroupsVersion1) {
  Machine machine;
  add_usual_files(machine);
  machine.file("proc/self/cgroup", "9:cpuset:/\n4:hugetlb,memory:/slurm/job_7\n0::/\n");
  machine.file("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  machine.file("cgroup/memory/slurm/job_7/memory.limit_in_bytes", std::to_string(400 * kMebi) + "\n");
  machine.file("cgroup/memory/slurm/job_7/memory.usage_in_bytes", std::to_string(300 * kMebi) + "\n");
  machine.file(
      "cgroup/memory/slurm/job_7/memory.stat",
      "inactive_file 1\ntotal_inactive_file " + std::to_string(20 * kMebi) + "\ntotal_active_file 0\n");
  EXPECT_EQ(available_memory_bytes(machine.sources()), 120 * kMebi);
}

TEST(Memory, AContainerThatSeesItsOwnCgroupAsTheRootIsHonoured) {
  Machine machine;
  add_usual_files(machine);
  machine.file("proc/self/cgroup", "0::/path/of/the/host\n");
  machine.file("cgroup/memory.max", std::to_string(64 * kMebi) + "\n");
  machine.file("cgroup/memory.current", "0\n");
  EXPECT_EQ(available_memory_bytes(machine.sources()), 64 * kMebi);
}

TEST(Memory, HonoursSlurmsShareOfTheNode) {
  Machine machine;
  add_usual_files(machine);
  machine.variable("SLURM_MEM_PER_CPU", "50");
  EXPECT_EQ(available_memory_bytes(machine.sources()), 1000 * kMebi) << "useless without the number of cores";
  machine.variable("SLURM_CPUS_ON_NODE", "4");
  EXPECT_EQ(available_memory_bytes(machine.sources()), 200 * kMebi);
  machine.variable("SLURM_MEM_PER_NODE", "100");
  EXPECT_EQ(available_memory(machine.sources()).bytes, 100 * kMebi);
  EXPECT_EQ(available_memory(machine.sources()).source, "SLURM_MEM_PER_NODE");
  for (const char* whole_node : {"0", "", "abc", "-5", "99999999999999999999", "2000"}) {
    machine.variable("SLURM_MEM_PER_NODE", whole_node);
    machine.variable("SLURM_CPUS_ON_NODE", "x");
    EXPECT_EQ(available_memory_bytes(machine.sources()), 1000 * kMebi) << whole_node;
  }
}

TEST(Memory, GarbageInTheKernelsFilesIsNoLimit) {
  Machine machine;
  add_usual_files(machine);
  machine.file("proc/self/cgroup", "\n:\n::\n0::/job\nx:memory\n");
  machine.file("cgroup/job/memory.max", "-7 apples\n");
  EXPECT_EQ(available_memory_bytes(machine.sources()), 1000 * kMebi);
  EXPECT_GT(available_memory_bytes(Machine().sources()), 0) << "not even meminfo";
}

TEST(Memory, ThisMachineHasSome) {
  EXPECT_GT(available_memory_bytes(), 0);
}

TEST(Cpu, NamesTheModel) {
  Machine machine;
  machine.file("proc/cpuinfo",
               "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nprocessor\t: 1\nmodel name\t: Other\n");
  EXPECT_EQ(cpu_model(machine.sources()), "Some CPU @ 3 GHz");
  EXPECT_EQ(cpu_model(Machine().sources()), "unknown");
}

TEST(Cpu, CoresAreThoseOfTheMaskAndOfTheQuota) {
  Machine machine;
  const int mask = affinity_cores(machine.sources());
  EXPECT_GE(mask, 1);
  machine.file("proc/self/cgroup", "0::/job\n");
  for (const auto& [quota, cores] : std::map<std::string, int>{{"max 100000\n", mask},
                                                               {"50000 100000\n", 1},
                                                               {"100000 100000\n", 1},
                                                               {"100000000 100000\n", mask},
                                                               {"0 0\n", mask}}) {
    machine.file("cgroup/job/cpu.max", quota);
    EXPECT_EQ(affinity_cores(machine.sources()), cores) << quota;
  }
  machine.file("cgroup/job/cpu.max", "max 100000\n");
  machine.file("proc/self/cgroup", "1:cpu,cpuacct:/job\n");
  machine.file("cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
  machine.file("cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(affinity_cores(machine.sources()), mask);
  machine.file("cgroup/cpu/job/cpu.cfs_quota_us", "30000\n");
  EXPECT_EQ(affinity_cores(machine.sources()), 1);
}

TEST(Cpu, RanksShareTheirCores) {
  EXPECT_EQ(threads_for_rank(1, 1), 1);
  EXPECT_EQ(threads_for_rank(2, 1), 2);
  EXPECT_EQ(threads_for_rank(2, 2), 1);
  EXPECT_EQ(threads_for_rank(7, 2), 3);
  EXPECT_EQ(threads_for_rank(2, 5), 1) << "at least one";
  EXPECT_THROW((void)threads_for_rank(0, 1), LogicError);
  EXPECT_THROW((void)threads_for_rank(1, 0), LogicError);
}

TEST(Names, TheHostHasOne) {
  EXPECT_NE(host_name(), "");
}

TEST(Names, AFileIsNoTerminal) {
  const test::TemporaryFolder folder;
  const int descriptor = ::open((folder.path() / "x").c_str(), O_CREAT | O_RDWR, 0600);
  EXPECT_FALSE(is_terminal(descriptor));
  EXPECT_EQ(terminal_columns(descriptor), 80);
  ::close(descriptor);
  EXPECT_FALSE(is_terminal(-1));
}

TEST(Dates, AreIsoInUtc) {
  EXPECT_EQ(iso_date(0), "1970-01-01T00:00:00.000Z");
  EXPECT_EQ(iso_date(1000000000.9996), "2001-09-09T01:46:41.000Z");
  EXPECT_EQ(iso_date(951782400.5), "2000-02-29T00:00:00.500Z");
  EXPECT_THAT(iso_date(),
              MatchesRegex("20[0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z"));
}

TEST(Disk, FreeBytesAreThoseOfTheNearestExistingFolder) {
  const test::TemporaryFolder folder;
  EXPECT_GT(free_disk_bytes(folder.path()), 0);
  EXPECT_GT(free_disk_bytes(folder.path() / "not" / "yet" / "there"), 0);
  EXPECT_GE(free_disk_bytes("relative/and/absent"), 0);
}

TEST(Probes, AUsualFolderLocksAndSynchronizesAndIsLeftClean) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(probe_file_lock(folder.path()), "yes");
  EXPECT_THAT(probe_fsync(folder.path()), MatchesRegex("yes \\([0-9.]+ ms\\)"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Probes, AnAbsentFolderIsAnAnswerAndNoError) {
  const test::TemporaryFolder folder;
  EXPECT_THAT(probe_file_lock(folder.path() / "absent"), StartsWith("no: cannot create a file: "));
  EXPECT_THAT(probe_fsync(folder.path() / "absent"), StartsWith("no: cannot create a file: "));
}

}  // namespace
}  // namespace fedspallm::report
