// SPDX-License-Identifier: Apache-2.0
// Which GPU a rank takes, and how that is told.
#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

namespace fedspallm::test {
namespace {

using backend::RankPlace;

TEST(Devices, RanksOfAHostTakeTurns) {
  std::vector<int> devices;
  for (int rank = 0; rank < 6; ++rank) devices.push_back(backend::cuda_device_of_rank(rank, 4));
  EXPECT_EQ(devices, (std::vector<int>{0, 1, 2, 3, 0, 1}));
  EXPECT_EQ(backend::cuda_device_of_rank(7, 1), 0);
}

TEST(Devices, PreconditionsAreChecked) {
  EXPECT_THROW(static_cast<void>(backend::cuda_device_of_rank(0, 0)), LogicError);
  EXPECT_THROW(static_cast<void>(backend::cuda_device_of_rank(-1, 2)), LogicError);
  EXPECT_THROW(static_cast<void>(backend::format_uuid(std::array<unsigned char, 15>{})), LogicError);
}

TEST(Devices, UuidsReadAsNvidiaSmiPrintsThem) {
  std::array<unsigned char, 16> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(17 * i);
  EXPECT_EQ(backend::format_uuid(bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
}

TEST(Devices, TheTableNamesEachRankAndWhatIsShared) {
  const std::array<RankPlace, 4> places{
      {{0, "node1", "GPU-a"}, {1, "node1", ""}, {2, "n2", "GPU-b"}, {3, "n2", "GPU-b"}}};
  EXPECT_EQ(backend::rank_table(places),
            "rank 0     node1  GPU-a\n"
            "rank 1     node1  no GPU\n"
            "rank 2     n2     GPU-b\n"
            "rank 3     n2     GPU-b\n"
            "GPU-b is shared by ranks 2, 3\n");
  const std::array<RankPlace, 1> none{{{0, "node1", ""}}};
  EXPECT_EQ(backend::rank_table(none), "");
}

TEST(Devices, NothingVisibleComesWithAReason) {
  const backend::CudaDevices visible = backend::visible_cuda_devices();
  EXPECT_EQ(visible.devices.empty(), !visible.reason.empty());
}

TEST(Devices, TheRuntimeHasAVersionInBuildsWithCuda) {
  const std::string version = backend::cuda_runtime_version();
  if (!version.empty()) {
    EXPECT_THAT(version, testing::MatchesRegex("[0-9]+\\.[0-9]"));
  }
}

}  // namespace
}  // namespace fedspallm::test
