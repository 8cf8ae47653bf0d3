// SPDX-License-Identifier: Apache-2.0
// Set-up and tear-down functions, on any number of ranks, with data of any size.
#include "fedspallm/comm/communicator.hpp"

#include "fedspallm/comm/watchdog.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/mpi_check.hpp"
#include <chrono>
#include <ctime>
#include <filesystem>
#include <limits>
#include <thread>

namespace fedspallm::comm {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::int64_t kSmallLimit = 7;  // splits everything that is longer
const std::vector<std::int64_t> kSizes = {0, 1, 6, 7, 8, 14, 15, 1000};

/// Different at every place and for every stream.
std::vector<std::byte> some_bytes(std::int64_t size, std::uint32_t stream) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(i * 7 + (i >> 8) * 13 + (i >> 16) * 29 + stream * 101);
  }
  return bytes;
}

/// What the rank's own thrown error says, or "" when nothing was thrown.
template <class Step>
std::string thrown_by(Step&& step, ExitStatus expected) {
  try {
    step();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), expected);
    return error.what();
  }
  return "";
}

TEST(Communicator, KnowsItsPlaceInTheWorldAndOnTheNode) {
  const Communicator comm;
  EXPECT_GE(comm.rank(), 0);
  EXPECT_LT(comm.rank(), comm.size());
  EXPECT_EQ(comm.node_size(), comm.size());  // tests run on one host
  EXPECT_EQ(comm.node_rank(), comm.rank());
  EXPECT_FALSE(comm.host().empty());
}

TEST(Communicator, BroadcastReachesEveryRankFromAnyRootAtAnySize) {
  Communicator comm(kSmallLimit);
  for (int root = 0; root < comm.size(); ++root) {
    for (const std::int64_t size : kSizes) {
      const auto expected = some_bytes(size, static_cast<std::uint32_t>(root));
      auto bytes = comm.rank() == root ? expected : some_bytes(3, 99);
      comm.broadcast(bytes, root);
      EXPECT_EQ(bytes, expected) << "root " << root << ", size " << size;
    }
  }
}

TEST(Communicator, BroadcastOfManyMegabytesArrivesWhole) {
  Communicator comm;
  const auto expected = some_bytes(5'000'001, 1);
  auto bytes = comm.rank() == 0 ? expected : std::vector<std::byte>();
  comm.broadcast(bytes);
  EXPECT_TRUE(bytes == expected);
}

TEST(Communicator, BroadcastOfTextKeepsEveryCharacter) {
  Communicator comm(kSmallLimit);
  const std::string expected("caf\xc3\xa9 \0 end", 11);
  EXPECT_EQ(comm.broadcast(comm.rank() == 0 ? expected : std::string("other")), expected);
  EXPECT_EQ(comm.broadcast(std::string()), "");
}

TEST(Communicator, GatherBringsDifferentSizesToAnyRootInRankOrder) {
  Communicator comm(kSmallLimit);
  for (int root = 0; root < comm.size(); ++root) {
    for (const std::int64_t size : kSizes) {
      const auto own = some_bytes(size + comm.rank(), static_cast<std::uint32_t>(comm.rank()));
      const auto all = comm.gather(std::span<const std::byte>(own), root);
      if (comm.rank() != root) {
        EXPECT_TRUE(all.empty());
        continue;
      }
      ASSERT_EQ(all.size(), static_cast<std::size_t>(comm.size()));
      for (int source = 0; source < comm.size(); ++source) {
        EXPECT_EQ(all[static_cast<std::size_t>(source)],
                  some_bytes(size + source, static_cast<std::uint32_t>(source)));
      }
    }
  }
}

TEST(Communicator, GatherOfTextsIsInRankOrder) {
  Communicator comm;
  const auto texts = comm.gather("rank " + std::to_string(comm.rank()));
  if (comm.rank() != 0) return;
  ASSERT_EQ(texts.size(), static_cast<std::size_t>(comm.size()));
  for (std::size_t rank = 0; rank < texts.size(); ++rank)
    EXPECT_EQ(texts[rank], "rank " + std::to_string(rank));
}

TEST(Communicator, MaximumAndSumAreExactForLargeNumbers) {
  Communicator comm;
  constexpr std::int64_t large = (std::int64_t{1} << 53) + 1;  // no double holds it
  EXPECT_EQ(comm.maximum(large + comm.rank()), large + comm.size() - 1);
  EXPECT_EQ(comm.maximum(-comm.rank()), 0);
  EXPECT_EQ(comm.sum(large), large * comm.size());
}

TEST(Communicator, BarrierEndsAfterTheSlowestRankCameAndWaitsAsleep) {
  const auto now = [] {
    return std::chrono::steady_clock::now().time_since_epoch().count();
  };  // one clock per host
  Communicator comm;
  comm.barrier();
  const std::clock_t cpu = std::clock();
  const auto begin = std::chrono::steady_clock::now();
  if (comm.rank() == comm.size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const std::int64_t came = now();
  comm.barrier();
  const std::int64_t left = now();
  const double cpu_seconds = static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC;
  EXPECT_GE(left, comm.maximum(came));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(cpu_seconds, 0.5 * seconds.count()) << "a waiting rank must not spin";
}

TEST(Communicator, AgreeIsSilentWhenNobodyFailed) {
  Communicator comm;
  EXPECT_NO_THROW(comm.agree(std::nullopt));
  EXPECT_NO_THROW(comm.together([] {}));
}

TEST(Communicator, AgreeTellsEveryRankOfEachRanksFailure) {
  Communicator comm(kSmallLimit);
  for (int failing = 0; failing < comm.size(); ++failing) {
    std::optional<Error> failure;
    if (comm.rank() == failing) failure = DataError("tokens missing");
    const std::string text = thrown_by([&] { comm.agree(failure); }, ExitStatus::bad_input);
    EXPECT_EQ(text, fmt::format("rank {} on {}: tokens missing", failing, comm.host()));
  }
}

TEST(Communicator, AgreeTakesTheLowestRanksStatusAndJoinsDifferentMessages) {
  Communicator comm;
  if (comm.size() < 2) GTEST_SKIP() << "needs two ranks";
  std::optional<Error> failure;
  if (comm.rank() == comm.size() - 1) failure = NumericalError("not finite");
  if (comm.rank() == 0) failure = ResourceError("disk full");
  const std::string text = thrown_by([&] { comm.agree(failure); }, ExitStatus::no_resources);
  EXPECT_EQ(text, fmt::format("rank 0 on {0}: disk full\nrank {1} on {0}: not finite", comm.host(),
                              comm.size() - 1));
}

TEST(Communicator, AgreeTellsEqualMessagesOnceWithTheirNumber) {
  Communicator comm;
  const std::string text = thrown_by([&] { comm.agree(ConfigError("no such file")); }, ExitStatus::bad_input);
  std::string expected = fmt::format("rank 0 on {}: no such file", comm.host());
  if (comm.size() > 1) expected += fmt::format(" (on {} ranks)", comm.size());
  EXPECT_EQ(text, expected);
}

TEST(Communicator, TogetherTurnsAnyExceptionOfAnyRankIntoOneErrorEverywhere) {
  Communicator comm;
  const bool failing = comm.rank() == comm.size() - 1;
  const auto memory = thrown_by(
      [&] {
        comm.together([&] {
          if (failing) throw std::bad_alloc();
        });
      },
      ExitStatus::no_resources);
  EXPECT_THAT(memory, HasSubstr("out of memory"));
  const auto disk = thrown_by(
      [&] {
        comm.together([&] {
          if (failing) std::filesystem::create_directories("/dev/null/logs");
        });
      },
      ExitStatus::no_resources);
  EXPECT_THAT(disk, HasSubstr("/dev/null/logs: Not a directory"));
  const auto other = thrown_by(
      [&] {
        comm.together([&] {
          if (failing) throw std::runtime_error("odd");
        });
      },
      ExitStatus::check_failed);
  EXPECT_THAT(other, HasSubstr("odd"));
  const auto own = thrown_by(
      [&] {
        comm.together([&] {
          if (failing) throw LockedError("held");
        });
      },
      ExitStatus::locked);
  EXPECT_THAT(own, HasSubstr(fmt::format("rank {} on", comm.size() - 1)));
  comm.barrier();  // the communicator is as usable as before
}

TEST(Communicator, AProvokedMpiErrorArrivesAsPeerErrorWithFunctionAndText) {
  Communicator comm;
  const int nobody = comm.size() + 5;
  try {
    check_mpi(MPI_Send(nullptr, 0, MPI_BYTE, nobody, 0, comm_of(comm)), "MPI_Send");
    FAIL() << "an invalid rank was accepted";
  } catch (const PeerError& error) {
    EXPECT_THAT(error.what(), HasSubstr("MPI_Send failed"));
    EXPECT_THAT(error.what(), HasSubstr("MPI_ERR_RANK"));
    EXPECT_THAT(error.what(), HasSubstr(fmt::format("class {}", static_cast<int>(MPI_ERR_RANK))));
  }
}

TEST(Communicator, PreconditionsAreChecked) {
  Communicator comm;
  std::vector<std::byte> bytes;
  EXPECT_THROW(comm.broadcast(bytes, -1), LogicError);
  EXPECT_THROW(comm.broadcast(bytes, comm.size()), LogicError);
  EXPECT_THROW((void)comm.gather(std::span<const std::byte>(bytes), comm.size()), LogicError);
  EXPECT_THROW(Communicator(0), LogicError);
  EXPECT_THROW(Communicator((std::int64_t{1} << 30) + 1), LogicError);
}

TEST(Watchdog, PreconditionsAreChecked) {
  Communicator comm;
  const WatchdogOptions off{.phases = {"setup", "pruning"}, .lost_seconds = 0};
  const auto refused = [&](auto change) {
    WatchdogOptions options = off;
    change(options);
    EXPECT_THROW(Watchdog(comm, options, {}), LogicError);
  };
  refused([](WatchdogOptions& options) { options.phases.clear(); });
  refused([](WatchdogOptions& options) { options.phases.resize(65536); });
  refused([](WatchdogOptions& options) { options.lost_seconds = -1; });
  refused([](WatchdogOptions& options) { options.lost_seconds = options.stuck_seconds + 1; });
  refused([](WatchdogOptions& options) { options.connect_seconds = 0; });
  Watchdog watchdog(comm, off, {});
  watchdog.beat("pruning", 3);
  EXPECT_THROW(watchdog.beat("no phase"), LogicError);
  watchdog.finish();
}

TEST(CheckedCount, RefusesWhatMpisIntCannotHold) {
  EXPECT_EQ(checked_count(0), 0);
  EXPECT_EQ(checked_count(std::numeric_limits<int>::max()), std::numeric_limits<int>::max());
  EXPECT_THROW((void)checked_count(std::int64_t{1} << 31), LogicError);
  EXPECT_THROW((void)checked_count(-1), LogicError);
}

TEST(MpiSession, NamesTheLibrary) {
  EXPECT_FALSE(MpiSession::library_version().empty());
  EXPECT_THAT(MpiSession::library_version(), Not(HasSubstr(",")));
}

}  // namespace
}  // namespace fedspallm::comm
