// SPDX-License-Identifier: Apache-2.0
// The transport benchmark runs every method on any number of ranks, and all of them give the same bits; the
// scaling benchmark runs any number of clients; limits and the fitted line are what arithmetic says. No
// timing is judged.
#include "fedspallm/comm/bench.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fedspallm::comm {
namespace {

TEST(TransportBench, EveryMethodGivesTheSameBits) {
  Communicator comm;
  for (const int clients : {1, 3}) {
    const auto bench = bench_transports(
        comm,
        {.rows = 33, .cols = 70, .clients_per_rank = clients, .units = 2, .repeats = 1, .chunk_bytes = 4000});
    ASSERT_EQ(bench.timings.size(), comm.size() > 1 ? 6U : 5U) << "nodes where ranks share a host";
    EXPECT_EQ(bench.ranks, comm.size());
    EXPECT_EQ(bench.clients, comm.size() * clients);
    EXPECT_GT(bench.copy_bytes_per_second, 0);
    for (const auto& row : bench.timings) {
      EXPECT_GT(row.timing.seconds, 0) << row.name;
      const bool travels = comm.size() > 1 && row.name != "nodes (shared memory)";
      EXPECT_EQ(row.root_bytes > 0, travels) << row.name;
      if (comm.rank() == 0) {
        EXPECT_TRUE(row.same_bits) << row.name;
        EXPECT_GT(row.timing.core_seconds, 0) << row.name;
        EXPECT_EQ(row.timing.link_seconds > 0, travels) << row.name;
      }
    }
  }
}

TEST(TransportBench, TheLargerLimitCounts) {
  const Timing link{.seconds = 4, .link_seconds = 2, .core_seconds = 1};
  EXPECT_EQ(link.limit(), "plain messages");
  EXPECT_EQ(link.limit_seconds(), 2);
  EXPECT_EQ(link.share(), 0.5);
  const Timing core{.seconds = 4, .link_seconds = 2, .core_seconds = 3};
  EXPECT_EQ(core.limit(), "one core adding");
  EXPECT_EQ(core.share(), 0.75);
}

TEST(TransportBench, OptionsAreChecked) {
  Communicator comm;
  EXPECT_THROW((void)bench_transports(comm, {.rows = 0}), LogicError);
  EXPECT_THROW((void)bench_transports(comm, {.clients_per_rank = 0}), LogicError);
  EXPECT_THROW((void)bench_transports(comm, {.repeats = 0}), LogicError);
  EXPECT_THROW((void)bench_transports(comm, {.chunk_bytes = 0}), LogicError);
}

TEST(ScalingBench, MeasuresEveryNumberOfClientsWithBothTransports) {
  Communicator comm;
  const std::vector<int> clients = {1, 3, 20};  // fewer and more than ranks and different matrices
  const auto all = bench_scaling(comm, {.rows = 9, .cols = 70, .clients = clients, .units = 3, .repeats = 1});
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].transport, "gather");
  EXPECT_EQ(all[1].transport, "reduce");
  for (const ScalingSeries& series : all) {
    ASSERT_EQ(series.points.size(), clients.size());
    for (std::size_t i = 0; i < clients.size(); ++i) {
      EXPECT_EQ(series.points[i].clients, clients[i]);
      EXPECT_EQ(series.points[i].update_bytes, series.points[0].update_bytes * clients[i]);
      EXPECT_GT(series.points[i].timing.seconds, 0);
    }
    // One client is the root's own: nothing travels.
    EXPECT_EQ(series.points[0].timing.link_seconds, 0);
    if (comm.rank() == 0) {
      EXPECT_EQ(series.points[2].timing.link_seconds > 0, comm.size() > 1);
    }
  }
}

TEST(ScalingBench, OptionsAreChecked) {
  Communicator comm;
  EXPECT_THROW((void)bench_scaling(comm, {.cols = 0}), LogicError);
  EXPECT_THROW((void)bench_scaling(comm, {.clients = {}}), LogicError);
  EXPECT_THROW((void)bench_scaling(comm, {.clients = {0, 1}}), LogicError);
  EXPECT_THROW((void)bench_scaling(comm, {.clients = {2, 1}}), LogicError);
  EXPECT_THROW((void)bench_scaling(comm, {.clients = {4097}}), LogicError);
  EXPECT_THROW((void)bench_scaling(comm, {.units = 0}), LogicError);
}

TEST(LineFit, FindsALineAndCountsRelativeResiduals) {
  const std::vector<double> x = {1, 2, 64};
  const LineFit exact = fit_line(x, std::vector<double>{5, 7, 131});  // 3 + 2 x
  EXPECT_NEAR(exact.fixed, 3, 1e-9);
  EXPECT_NEAR(exact.per_unit, 2, 1e-9);
  // Points (0, 1), (1, 1), (1, 2): weights 1, 1, 1/4. At x = 1 the weighted mean is (1 + 2/4) / (5/4) = 1.2.
  const LineFit weighted = fit_line(std::vector<double>{0, 1, 1}, std::vector<double>{1, 1, 2});
  EXPECT_NEAR(weighted.fixed, 1, 1e-12);
  EXPECT_NEAR(weighted.per_unit, 0.2, 1e-12);
  const LineFit constant = fit_line(std::vector<double>{4}, std::vector<double>{9});
  EXPECT_EQ(constant.fixed, 9);
  EXPECT_EQ(constant.per_unit, 0);
  EXPECT_THROW((void)fit_line(x, std::vector<double>{1, 2}), LogicError);
  EXPECT_THROW((void)fit_line(x, std::vector<double>{1, 2, 0}), LogicError);
}

}  // namespace
}  // namespace fedspallm::comm
