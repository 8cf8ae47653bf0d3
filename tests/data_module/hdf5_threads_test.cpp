// SPDX-License-Identifier: Apache-2.0
// HDF5 from several threads: the library need not be built thread-safe.
#include "fedspallm/base/error.hpp"
#include "fedspallm/data/hdf5.hpp"

#include <gtest/gtest.h>

#include "support/support.hpp"
#include <string>
#include <thread>
#include <vector>

namespace fedspallm::data::hdf5 {
namespace {

TEST(Hdf5Threads, SeveralThreadsUseFilesOfTheirOwnAtOnce) {
  const test::TemporaryFolder folder;
  constexpr int kRounds = 40;
  std::vector<int> good(4, 0);
  {
    std::vector<std::jthread> threads;
    for (std::size_t thread = 0; thread < good.size(); ++thread)
      threads.emplace_back([&, thread] {
        const std::string name = "thread-" + std::to_string(thread);
        const std::vector<std::int32_t> values(1000, static_cast<std::int32_t>(thread));
        for (int round = 0; round < kRounds; ++round) {
          File file = File::create(folder.path() / (name + ".h5"));
          file.root().write(name, values);
          file.close();
          const File again = File::open(folder.path() / (name + ".h5"));
          try {
            static_cast<void>(again.root().read<float>(name));
          } catch (const DataError& error) {  // tells of its own file
            good[thread] += std::string(error.what()).find(name + ".h5") != std::string::npos &&
                            again.root().read<std::int32_t>(name) == values;
          }
        }
      });
  }
  EXPECT_EQ(good, std::vector<int>(good.size(), kRounds));
}

}  // namespace
}  // namespace fedspallm::data::hdf5
