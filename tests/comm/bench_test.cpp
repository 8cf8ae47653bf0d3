// SPDX-License-Identifier: Apache-2.0
// The transport benchmark runs every method on any number of ranks, and all of them give the same bits. No
// timing is judged.
#include "fedspallm/comm/bench.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedspallm::comm {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(TransportBench, EveryMethodGivesTheSameBits) {
  Communicator comm;
  for (const int clients : {1, 3}) {
    const auto bench = bench_transports(
        comm,
        {.rows = 33, .cols = 70, .clients_per_rank = clients, .units = 2, .repeats = 1, .chunk_bytes = 4000});
    ASSERT_EQ(bench.timings.size(), 5U);
    EXPECT_EQ(bench.ranks, comm.size());
    for (const auto& timing : bench.timings) {
      EXPECT_GT(timing.seconds, 0) << timing.name;
      EXPECT_EQ(timing.root_bytes == 0, comm.size() == 1) << timing.name;
      if (comm.rank() == 0) {
        EXPECT_TRUE(timing.same_bits) << timing.name;
      }
    }
    EXPECT_THAT(to_text(bench), HasSubstr("MPI_Ireduce"));
    if (comm.rank() == 0) {
      EXPECT_THAT(to_text(bench), Not(HasSubstr("DIFFERENT")));
    }
  }
}

TEST(TransportBench, OptionsAreChecked) {
  Communicator comm;
  EXPECT_THROW((void)bench_transports(comm, {.rows = 0}), LogicError);
  EXPECT_THROW((void)bench_transports(comm, {.clients_per_rank = 0}), LogicError);
  EXPECT_THROW((void)bench_transports(comm, {.repeats = 0}), LogicError);
  EXPECT_THROW((void)bench_transports(comm, {.chunk_bytes = 0}), LogicError);
}

}  // namespace
}  // namespace fedspallm::comm
