// SPDX-License-Identifier: Apache-2.0
// Updates that are only summarized at first and made when they are due: the same bits and bytes as delivered
// ones, a few of them at a time, and an orderly end when one cannot be made.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/host_device.hpp"
#include <algorithm>
#include <atomic>
#include <set>

namespace fedspallm::comm {
namespace {

using namespace test;  // NOLINT: the tests' own helpers
using testing::HasSubstr;

class Later : public testing::TestWithParam<Way> {
 protected:
  [[nodiscard]] ExchangeOptions options() { return options_of(GetParam(), comm_); }
  [[nodiscard]] ExchangePlan plan(Placement placement = Placement::round_robin) const {
    return make_plan({.clients = 11,
                      .placement = placement,
                      .ranks = comm_.size(),
                      .blocks = 3,
                      .shapes = {{16, 40, DType::bf16}, {9, 40, DType::f32}, {5, 13, DType::f16}}});
  }
  [[nodiscard]] std::vector<UpdateSummary> summaries(const ExchangePlan& plan, std::size_t index,
                                                     const std::set<std::uint32_t>& dropped = {}) const {
    std::vector<UpdateSummary> result;
    for (const std::uint32_t client : plan.units[index].clients) {
      if (plan.rank_of_client[client] != comm_.rank() || dropped.contains(client)) continue;
      const wire::MatrixUpdate update = make_update(plan, index, client);
      UpdateSummary one{.client = client,
                        .kept = update.matrix.kept,
                        .largest = wire::largest_magnitude(update.matrix),
                        .report = update.report};
      for (const float value : update.hessian_diagonal)
        one.largest_diagonal = std::max(one.largest_diagonal, value);
      result.push_back(one);
    }
    return result;
  }
  void submit(Exchange& exchange, const ExchangePlan& plan, std::size_t index,
              const std::set<std::uint32_t>& dropped = {}) {
    exchange.submit_later(index, summaries(plan, index, dropped),
                          [&plan, index](std::uint32_t client) { return make_update(plan, index, client); });
  }
  Communicator comm_;
};

TEST_P(Later, GivesTheSameBitsAndBytesAsDelivering) {
  for (const Placement placement : {Placement::round_robin, Placement::all_on_root, Placement::all_on_last}) {
    const auto planned = plan(placement);
    const Outcome delivered = run_exchange(comm_, planned, options(), 0);
    Outcome later;
    Exchange exchange(comm_, planned, options(), [&](const CompletedUnit& unit) {
      later.order.push_back(unit.index);
      later.seen.push_back(copy_of(unit));
    });
    for (std::size_t index = 0; index < planned.units.size(); ++index) submit(exchange, planned, index);
    exchange.finish();
    EXPECT_EQ(later.order, delivered.order);
    EXPECT_TRUE(later.seen == delivered.seen);
    const ExchangeStatistics statistics = exchange.statistics();
    EXPECT_EQ(statistics.bytes_sent, delivered.statistics.bytes_sent);
    const bool makes =
        std::count(planned.rank_of_client.begin(), planned.rank_of_client.end(), comm_.rank()) > 0;
    EXPECT_EQ(statistics.seconds_making > 0, makes);
  }
}

TEST_P(Later, RanksMayDifferInHowTheyDeliver) {
  const auto planned = plan();
  std::vector<Seen> seen;
  Exchange exchange(comm_, planned, options(),
                    [&](const CompletedUnit& unit) { seen.push_back(copy_of(unit)); });
  for (std::size_t index = 0; index < planned.units.size(); ++index) {
    if ((static_cast<std::size_t>(comm_.rank()) + index) % 2 == 0) {
      submit(exchange, planned, index);
      continue;
    }
    for (const std::uint32_t client : planned.units[index].clients)
      if (planned.rank_of_client[client] == comm_.rank())
        exchange.submit(index, make_update(planned, index, client));
  }
  exchange.finish();
  if (comm_.rank() == 0) {
    EXPECT_TRUE(seen == merge_serially(planned));
  }
}

TEST_P(Later, FewUpdatesOfARankExistAtOnce) {
  const auto planned = make_plan({.clients = 40, .ranks = comm_.size(), .shapes = {{32, 64, DType::bf16}}});
  std::atomic<std::int64_t> making{0};
  std::vector<std::int64_t> peaks;
  Exchange exchange(comm_, planned, options(), [](const CompletedUnit&) {});
  for (std::size_t index = 0; index < planned.units.size(); ++index) {
    exchange.submit_later(index, summaries(planned, index), [&, index](std::uint32_t client) {
      EXPECT_EQ(++making, 1) << "one at a time";
      wire::MatrixUpdate update = make_update(planned, index, client);
      --making;
      return update;
    });
  }
  exchange.finish();
  // Two merge states, one on its way to the other, a receive buffer and three updates that were just made:
  // 40 updates of 2 KiB would not fit.
  if (GetParam() == Way::gather && comm_.rank() == 0) {
    EXPECT_LT(exchange.statistics().peak_merge_bytes, 32 * 64 * 12 + 8 * (32 * 64 * 4 + 1024));
  }
}

TEST_P(Later, ClientsMayBeDroppedBetweenBlocks) {
  const auto planned = plan();
  const std::map<std::uint32_t, std::uint32_t> drops = {{1, 1}, {4, 1}, {7, 2}};
  std::vector<Seen> seen;
  Exchange exchange(comm_, planned, options(),
                    [&](const CompletedUnit& unit) { seen.push_back(copy_of(unit)); });
  std::set<std::uint32_t> dropped;
  for (std::size_t index = 0; index < planned.units.size(); ++index) {
    for (const auto& [client, block] : drops) {
      if (planned.units[index].id.block != block || planned.rank_of_client[client] != comm_.rank()) continue;
      if (dropped.insert(client).second) exchange.drop(client, block, "gone");
    }
    submit(exchange, planned, index, dropped);
  }
  exchange.finish();
  if (comm_.rank() == 0) {
    EXPECT_TRUE(seen == merge_serially(without(planned, drops)));
  }
}

TEST_P(Later, AnUpdateThatCannotBeMadeEndsTheExchangeEverywhereOnce) {
  for (int failing = 0; failing < comm_.size(); ++failing) {
    const auto planned = plan();
    std::string thrown;
    {
      Exchange exchange(comm_, planned, options(), [](const CompletedUnit& unit) {
        EXPECT_LT(unit.index, 2U) << "sums without an update are not handed over";
      });
      thrown = thrown_by([&] {
        for (std::size_t index = 0; index < planned.units.size(); ++index)
          exchange.submit_later(index, summaries(planned, index), [&, index](std::uint32_t client) {
            if (comm_.rank() == failing && index >= 2) throw NumericalError("out of ideas");
            return make_update(planned, index, client);
          });
        exchange.finish();
      });
    }
    EXPECT_EQ(thrown, fmt::format("7: rank {} on {}: out of ideas", failing, comm_.host()));
    const Outcome after = run_exchange(comm_, planned, options(), 0);
    if (comm_.rank() == 0) {
      EXPECT_TRUE(after.seen == merge_serially(planned)) << "nothing was left over";
    }
  }
}

/// Slices of the made-up updates, each by itself.
MakeSlices slices_of(const ExchangePlan& plan, std::size_t index) {
  const auto cut = [&plan, index](std::uint32_t client, const aggregate::Slice& slice) {
    const wire::PackedMatrix whole = make_update(plan, index, client).matrix;
    const auto words = std::min((slice.begin + 63) / 64, std::ssize(whole.bits));
    std::int64_t value = wire::count_mask_bits(std::span(whole.bits).first(static_cast<std::size_t>(words)));
    return wire::slice(whole, slice.begin, slice.end, value);
  };
  return {
      .kept =
          [cut](std::uint32_t client, std::span<const aggregate::Slice> slices) {
            std::vector<std::int64_t> kept;
            for (const aggregate::Slice& slice : slices) kept.push_back(cut(client, slice).kept);
            return kept;
          },
      .make = cut,
      .diagonal =
          [&plan, index](std::uint32_t client) { return make_update(plan, index, client).hessian_diagonal; }};
}

TEST_P(Later, SlicesMayBeMadeAlone) {
  const auto planned = plan();
  std::vector<Seen> seen;
  std::atomic<int> whole{0};
  Exchange exchange(comm_, planned, options(),
                    [&](const CompletedUnit& unit) { seen.push_back(copy_of(unit)); });
  for (std::size_t index = 0; index < planned.units.size(); ++index)
    exchange.submit_later(
        index, summaries(planned, index),
        [&, index](std::uint32_t client) {
          ++whole;
          return make_update(planned, index, client);
        },
        slices_of(planned, index));
  exchange.finish();
  if (comm_.rank() == 0) {
    EXPECT_TRUE(seen == merge_serially(planned));
  }
  if (GetParam() == Way::owners) {
    EXPECT_EQ(whole, 0);
  }
}

TEST_P(Later, WrongSlicesAndSlicesThatCannotBeMadeEndTheExchange) {
  if (GetParam() != Way::owners) GTEST_SKIP() << "nothing else makes slices";
  const auto planned = plan();
  const auto ended = [&](const std::function<void(MakeSlices&)>& change) {
    Exchange exchange(comm_, planned, options(), [](const CompletedUnit&) {});
    return thrown_by([&] {
      for (std::size_t index = 0; index < planned.units.size(); ++index) {
        MakeSlices slices = slices_of(planned, index);
        if (index >= 2) change(slices);
        exchange.submit_later(
            index, summaries(planned, index),
            [&, index](std::uint32_t client) { return make_update(planned, index, client); }, slices);
      }
      exchange.finish();
    });
  };
  const auto refusal = HasSubstr("another update was made than was summarized of client");
  EXPECT_THAT(ended([](MakeSlices& slices) {
                slices.kept = [](std::uint32_t, std::span<const aggregate::Slice> wanted) {
                  return std::vector<std::int64_t>(wanted.size(), 1000);
                };
              }),
              refusal);
  // Often: the rank that fails owes slices to ranks that hear of the stop sooner or later than they get them.
  for (int repeat = 0; repeat < 8; ++repeat) {
    EXPECT_THAT(ended([](MakeSlices& slices) {
                  slices.make = [make = slices.make](std::uint32_t client, const aggregate::Slice& slice) {
                    return make(client == 3 ? 4 : client, slice);
                  };
                }),
                refusal);
  }
  EXPECT_THAT(ended([](MakeSlices& slices) {
                slices.diagonal = [](std::uint32_t) { return std::vector<float>(7); };
              }),
              refusal);
  EXPECT_THAT(ended([](MakeSlices& slices) {
                slices.make = [](std::uint32_t, const aggregate::Slice&) -> wire::PackedMatrix {
                  throw NumericalError("out of ideas");
                };
              }),
              HasSubstr("out of ideas"));
  const Outcome after = run_exchange(comm_, planned, options(), 0);
  if (comm_.rank() == 0) {
    EXPECT_TRUE(after.seen == merge_serially(planned)) << "nothing was left over";
  }
}

TEST_P(Later, AnUpdateOtherThanSummarizedIsRefused) {
  const auto planned = plan();
  Exchange exchange(comm_, planned, options(), [](const CompletedUnit&) {});
  const std::string thrown = thrown_by([&] {
    for (std::size_t index = 0; index < planned.units.size(); ++index) {
      exchange.submit_later(index, summaries(planned, index), [&, index](std::uint32_t client) {
        return make_update(planned, index, client == 3 ? 4 : client);
      });
    }
    exchange.finish();
  });
  EXPECT_THAT(thrown, HasSubstr("another update was made than was summarized of client 3"));
}

TEST_P(Later, WrongSummariesAreRefused) {
  const auto planned = plan(Placement::all_on_root);
  Exchange exchange(comm_, planned, options(), [](const CompletedUnit&) {});
  const auto make = [&](std::uint32_t client) { return make_update(planned, 0, client); };
  if (comm_.rank() == 0) {
    const std::vector<UpdateSummary> good = summaries(planned, 0);
    const auto refused = [&](const std::function<void(std::vector<UpdateSummary>&)>& change) {
      auto bad = good;
      change(bad);
      EXPECT_THROW(exchange.submit_later(0, bad, make), LogicError);
    };
    EXPECT_THROW(exchange.submit_later(99, good, make), LogicError);
    EXPECT_THROW(exchange.submit_later(1, good, make), LogicError) << "unit 0 comes first";
    EXPECT_THROW(exchange.submit_later(0, good, {}), LogicError);
    refused([](auto& bad) { bad.pop_back(); });
    refused([](auto& bad) { std::swap(bad[0], bad[1]); });
    refused([](auto& bad) { bad[1] = bad[0]; });
    refused([](auto& bad) { bad[0].client = 99; });
    refused([](auto& bad) { bad[0].kept = -1; });
    refused([](auto& bad) { bad[0].kept = 16 * 40 + 1; });
    refused([](auto& bad) { bad[0].kept = 0; });
    refused([](auto& bad) { bad[0].largest = std::numeric_limits<float>::infinity(); });
    refused([](auto& bad) { bad[0].largest_diagonal = -1; });
  }
  exchange.fail(DataError("enough"));
}

INSTANTIATE_TEST_SUITE_P(Exchange, Later, testing::Values(Way::gather, Way::reduce, Way::owners, Way::nodes),
                         [](const auto& tested) { return name_of(tested.param); });

}  // namespace
}  // namespace fedspallm::comm
