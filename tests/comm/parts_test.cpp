// SPDX-License-Identifier: Apache-2.0
// The parts of an exchange that need no MPI: control messages, the receive ring, threads, and what follows
// from a plan.
#include "fedspallm/base/random.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/messages.hpp"
#include "comm/plan_index.hpp"
#include "comm/receive_ring.hpp"
#include "comm/threads.hpp"
#include <atomic>
#include <cstring>
#include <thread>

namespace fedspallm::comm {
namespace {

using testing::ElementsAre;

// --- control messages
// -------------------------------------------------------------------------------------------------

AnnounceMessage announcement() {
  Announcement one{
      .client = 3, .kept = std::int64_t{1} << 40, .largest = 1.5F, .largest_diagonal = 2.5F, .report = {}};
  one.report = {
      .error = 0.1, .seconds = 2.0, .kept_zeros = 7, .damping_steps = 2, .damping = 0.01F, .dead_columns = 9};
  return {.unit = 5'000'000'000, .clients = {one, Announcement()}};
}

TEST(Messages, AnAnnouncementArrivesWithEveryField) {
  const auto message = std::get<AnnounceMessage>(from_bytes(to_bytes(announcement())));
  EXPECT_EQ(message.unit, 5'000'000'000U);
  ASSERT_EQ(message.clients.size(), 2U);
  const Announcement& one = message.clients[0];
  EXPECT_EQ(one.client, 3U);
  EXPECT_EQ(one.kept, std::int64_t{1} << 40);
  EXPECT_EQ(one.largest, 1.5F);
  EXPECT_EQ(one.largest_diagonal, 2.5F);
  EXPECT_TRUE(one.report == announcement().clients[0].report);
}

TEST(Messages, EveryKindArrivesAsItself) {
  const Failure failure{ExitStatus::numerical, "rank 1 on host: not finite"};
  const std::vector<Message> all = {AnnounceMessage(),
                                    GrantMessage{1, 2},
                                    ScaleMessage{1, -60, 3, 5, -1, {5, 6}},
                                    FetchMessage{4},
                                    BlockMessage{4, 1LL << 40},
                                    FinishMessage{true},
                                    DoneMessage{true, 7},
                                    ByeMessage(),
                                    FailedMessage{failure},
                                    StopMessage(),
                                    StoppedMessage{failure},
                                    VerdictMessage{failure},
                                    DurableMessage{5'000'000'000},
                                    DropMessage{3, 9, "bad tokens"},
                                    LateMessage{3, 5'000'000'000},
                                    WishMessage{Boundary::save},
                                    HoldMessage(),
                                    BegunMessage{12},
                                    DecisionMessage{Boundary::stop, 13},
                                    SliceMessage{1, -60, 3, {4, 9}},
                                    OfferMessage{1, {7, 1LL << 40}},
                                    AskMessage{1, 2, 3},
                                    SumMessage{1, 2, true, {-5, 1LL << 60}},
                                    ResultMessage{1, 1LL << 40},
                                    TakeMessage{5'000'000'000},
                                    ReportsMessage{1, announcement().clients},
                                    WrittenMessage{1, "note"},
                                    QuietMessage(),
                                    AddMessage{1, -60, 3, 1, 2, 4},
                                    AddedMessage{1, true}};
  ASSERT_EQ(all.size(), std::variant_size_v<Message>);
  for (std::size_t kind = 0; kind < all.size(); ++kind) {
    EXPECT_EQ(from_bytes(to_bytes(all[kind])).index(), kind);
  }
  const auto scale = std::get<ScaleMessage>(from_bytes(to_bytes(all[2])));
  EXPECT_EQ(scale.q, -60);
  EXPECT_EQ(scale.diagonal_q, 3);
  EXPECT_EQ(scale.upstream, 5);
  EXPECT_EQ(scale.downstream, -1);
  EXPECT_EQ(scale.adders, (std::vector<std::int32_t>{5, 6}));
  const auto stopped = std::get<StoppedMessage>(from_bytes(to_bytes(all[10])));
  ASSERT_TRUE(stopped.failure.has_value());
  EXPECT_EQ(stopped.failure->text, failure.text);
  EXPECT_EQ(stopped.failure->status, failure.status);
  EXPECT_FALSE(std::get<StoppedMessage>(from_bytes(to_bytes(StoppedMessage()))).failure.has_value());
}

TEST(Messages, ThoseOfBoundariesAndLostClientsArriveWithEveryField) {
  EXPECT_TRUE(std::get<FinishMessage>(from_bytes(to_bytes(FinishMessage{true}))).stopped);
  const auto done = std::get<DoneMessage>(from_bytes(to_bytes(DoneMessage{true, 7})));
  EXPECT_TRUE(done.stopped);
  EXPECT_EQ(done.block, 7U);
  EXPECT_EQ(std::get<DurableMessage>(from_bytes(to_bytes(DurableMessage{5'000'000'000}))).units,
            5'000'000'000U);
  const auto drop = std::get<DropMessage>(from_bytes(to_bytes(DropMessage{3, 9, "bad tokens"})));
  EXPECT_EQ(drop.client, 3U);
  EXPECT_EQ(drop.block, 9U);
  EXPECT_EQ(drop.reason, "bad tokens");
  const auto late = std::get<LateMessage>(from_bytes(to_bytes(LateMessage{3, 5'000'000'000})));
  EXPECT_EQ(late.client, 3U);
  EXPECT_EQ(late.unit, 5'000'000'000U);
  EXPECT_EQ(std::get<WishMessage>(from_bytes(to_bytes(WishMessage{Boundary::save}))).what, Boundary::save);
  EXPECT_EQ(std::get<BegunMessage>(from_bytes(to_bytes(BegunMessage{12}))).next, 12U);
  const auto decision = std::get<DecisionMessage>(from_bytes(to_bytes(DecisionMessage{Boundary::stop, 13})));
  EXPECT_EQ(decision.what, Boundary::stop);
  EXPECT_EQ(decision.block, 13U);
}

TEST(Messages, ThoseOfANodeArriveWithEveryField) {
  const auto add = std::get<AddMessage>(from_bytes(to_bytes(AddMessage{5'000'000'000, -60, 3, 1, 2, 4})));
  EXPECT_EQ(add.unit, 5'000'000'000U);
  EXPECT_EQ(add.q, -60);
  EXPECT_EQ(add.diagonal_q, 3);
  EXPECT_EQ(add.state, 1U);
  EXPECT_EQ(add.adder, 2U);
  EXPECT_EQ(add.adders, 4U);
  const auto added = std::get<AddedMessage>(from_bytes(to_bytes(AddedMessage{5'000'000'000, true})));
  EXPECT_EQ(added.unit, 5'000'000'000U);
  EXPECT_TRUE(added.failed);
}
TEST(Messages, ThoseBetweenOwnersArriveWithEveryField) {
  const auto slice = std::get<SliceMessage>(from_bytes(to_bytes(SliceMessage{5, -60, 3, {4, 9}})));
  EXPECT_EQ(slice.unit, 5U);
  EXPECT_EQ(slice.q, -60);
  EXPECT_EQ(slice.diagonal_q, 3);
  EXPECT_EQ(slice.absent, (std::vector<std::uint32_t>{4, 9}));
  EXPECT_EQ(std::get<OfferMessage>(from_bytes(to_bytes(OfferMessage{1, {7, 8}}))).kept,
            (std::vector<std::int64_t>{7, 8}));
  const auto ask = std::get<AskMessage>(from_bytes(to_bytes(AskMessage{1, 2, 3})));
  EXPECT_EQ(ask.first, 2U);
  EXPECT_EQ(ask.count, 3U);
  const auto sum = std::get<SumMessage>(from_bytes(to_bytes(SumMessage{1, 2, true, {-5, 1LL << 60}})));
  EXPECT_EQ(sum.step, 2U);
  EXPECT_TRUE(sum.complete);
  EXPECT_EQ(sum.values, (std::vector<std::int64_t>{-5, 1LL << 60}));
  EXPECT_EQ(std::get<ResultMessage>(from_bytes(to_bytes(ResultMessage{1, 9}))).bytes, 9);
  EXPECT_EQ(std::get<WrittenMessage>(from_bytes(to_bytes(WrittenMessage{1, "note"}))).note, "note");
  auto many = to_bytes(OfferMessage{1, {7}});
  std::memset(many.data() + 9, 0xff, 8);  // the number of clients
  EXPECT_THROW((void)from_bytes(many), PeerError) << "checked before memory is asked for";
}

TEST(Messages, ValuesOutsideTheirTypeAreRefused) {
  EXPECT_THROW((void)from_bytes(to_bytes(WishMessage{Boundary::go_on})), PeerError);
  auto wish = to_bytes(WishMessage{Boundary::stop});
  wish[1] = std::byte{77};
  EXPECT_THROW((void)from_bytes(wish), PeerError);
  for (const int status : {0, -1, 8, 74, 76}) {
    const Failure failure{static_cast<ExitStatus>(status), "text"};
    EXPECT_THROW((void)from_bytes(to_bytes(VerdictMessage{failure})), PeerError) << status;
  }
  auto finish = to_bytes(FinishMessage{true});
  finish[1] = std::byte{2};
  EXPECT_THROW((void)from_bytes(finish), PeerError);
}

TEST(Messages, TruncatedLengthenedOrUnknownBytesAreRefused) {
  const auto whole = to_bytes(announcement());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_THROW((void)from_bytes(std::span(whole).first(size)), PeerError) << size;
  }
  auto longer = whole;
  longer.push_back(std::byte{0});
  EXPECT_THROW((void)from_bytes(longer), PeerError);
  EXPECT_THROW((void)from_bytes(std::vector<std::byte>{std::byte{200}}), PeerError);
  auto many = to_bytes(AnnounceMessage());
  std::memset(many.data() + 9, 0xff, 8);  // the number of clients
  EXPECT_THROW((void)from_bytes(many), PeerError) << "checked before memory is asked for";
}

TEST(Messages, ForecastOfAnAnnouncementIsExact) {
  for (const std::int64_t clients : {0, 1, 2, 64}) {
    AnnounceMessage message;
    message.clients.resize(static_cast<std::size_t>(clients));
    EXPECT_EQ(announce_bytes(clients), std::ssize(to_bytes(message)));
  }
}

// --- receive ring
// -----------------------------------------------------------------------------------------------------

TEST(ReceiveRing, GivesRoomUntilItIsFullAndAgainAfterwards) {
  ReceiveRing ring(192);
  const auto first = ring.take(64);
  const auto second = ring.take(64);
  const auto third = ring.take(64);
  ASSERT_TRUE(first && second && third);
  EXPECT_FALSE(ring.take(1));
  ring.give_back(second->id);
  EXPECT_FALSE(ring.take(1)) << "pieces are reused in order";
  ring.give_back(first->id);
  const auto fourth = ring.take(128);
  ASSERT_TRUE(fourth) << "both are free now";
  EXPECT_EQ(fourth->bytes.data(), first->bytes.data());
  EXPECT_FALSE(ring.take(1));
}

TEST(ReceiveRing, GrowsForAPieceLargerThanItselfOnlyWhenEmpty) {
  ReceiveRing ring(100);
  const auto small = ring.take(10);
  EXPECT_FALSE(ring.take(1000));
  ring.give_back(small->id);
  const auto large = ring.take(1000);
  ASSERT_TRUE(large);
  EXPECT_EQ(large->bytes.size(), 1000U);
  EXPECT_EQ(ring.capacity(), 1000);
}

TEST(ReceiveRing, PiecesInUseNeverOverlap) {
  ReceiveRing ring(1000);
  const RandomKey key{.seed = 1, .use = RandomUse::simulation};
  std::vector<ReceiveRing::Piece> used;
  int taken = 0;
  for (std::uint64_t i = 0; i < 5000; ++i) {
    if (random_bits(key, 2 * i) % 2 == 0) {
      const auto piece = ring.take(1 + static_cast<std::int64_t>(random_bits(key, 2 * i + 1) % 300));
      if (!piece) continue;
      ++taken;
      for (const auto& other : used) {
        const bool apart = piece->bytes.data() + piece->bytes.size() <= other.bytes.data() ||
                           other.bytes.data() + other.bytes.size() <= piece->bytes.data();
        ASSERT_TRUE(apart);
      }
      used.push_back(*piece);
    } else if (!used.empty()) {
      const auto place =
          used.begin() + static_cast<std::ptrdiff_t>(random_bits(key, 2 * i + 1) % used.size());
      ring.give_back(place->id);
      used.erase(place);
    }
  }
  EXPECT_GT(taken, 1000);
  EXPECT_EQ(ring.capacity(), 1000);
}

TEST(ReceiveRing, MisuseIsRefused) {
  ReceiveRing ring(10);
  EXPECT_THROW((void)ring.take(0), LogicError);
  EXPECT_THROW(ring.give_back(0), LogicError);
  const auto piece = ring.take(4);
  const auto other = ring.take(1);
  EXPECT_FALSE(other) << "the next piece begins at a cache line";
  ring.give_back(piece->id);
  EXPECT_THROW(ring.give_back(piece->id), LogicError);
}

// --- threads
// ----------------------------------------------------------------------------------------------------------

TEST(Worker, RunsTasksInOrderAndAllOfThemBeforeItEnds) {
  std::vector<int> order;
  {
    Worker worker([] { FAIL() << "no task throws"; });
    for (int i = 0; i < 100; ++i) worker.post([&order, i] { order.push_back(i); });
  }
  ASSERT_EQ(order.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

TEST(Worker, GoesOnAfterATaskThatThrows) {
  std::string caught;
  bool ran = false;
  {
    Worker worker([&] { caught = current_failure("rank 0 on here").text; });
    worker.post([] { throw DataError("bad"); });
    worker.post([&] { ran = true; });
  }
  EXPECT_EQ(caught, "rank 0 on here: bad");
  EXPECT_TRUE(ran);
}

TEST(Gate, LetsAsManyBlocksInAsTheWindowHolds) {
  Gate gate(2);
  gate.enter(0);
  gate.enter(0);
  gate.enter(1);
  gate.enter(0);  // known blocks never wait
  std::atomic<bool> entered{false};
  std::jthread late([&] {
    gate.enter(2);
    entered = true;
  });
  gate.taken(0);
  gate.taken(0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(entered) << "one update of block 0 is still here";
  gate.taken(0);
  late.join();
  EXPECT_TRUE(entered);
}

TEST(Gate, CountsTheSecondsThatItsCallersWaited) {
  double waited = 0;
  // However late a busy machine starts the thread, one of these pauses is long enough.
  for (int milliseconds = 20; waited == 0 && milliseconds < 60'000; milliseconds *= 2) {
    Gate gate(1);
    gate.enter(0);
    EXPECT_EQ(gate.seconds_waited(), 0);
    std::jthread late([&] { gate.enter(1); });
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    gate.taken(0);
    late.join();
    waited = gate.seconds_waited();
  }
  EXPECT_GT(waited, 0);
}

TEST(Gate, WakesEveryWaitingThreadWithTheFailure) {
  Gate gate(1);
  gate.enter(0);
  std::atomic<int> told{0};
  const auto expect_failure = [&](const std::function<void()>& wait) {
    try {
      wait();
    } catch (const Error& error) {
      if (error.status() == ExitStatus::locked && std::string(error.what()) == "text") ++told;
    }
  };
  {
    std::jthread one([&] { expect_failure([&] { gate.enter(1); }); });
    std::jthread two([&] { expect_failure([&] { gate.wait([] { return false; }); }); });
    std::jthread three([&] { expect_failure([&] { gate.wait_closed(); }); });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    gate.close(Failure{ExitStatus::locked, "text"});
  }
  EXPECT_EQ(told, 3);
  expect_failure([&] { gate.enter(0); });
  EXPECT_EQ(told, 4) << "later calls too";
}

TEST(Gate, RefusesUpdatesAfterAGoodEnd) {
  Gate gate(1);
  gate.close(std::nullopt);
  EXPECT_NO_THROW(gate.wait_closed());
  EXPECT_THROW(gate.enter(0), LogicError);
}

TEST(Gate, HoldsBackWhatIsTooFarAheadOfTheDurableBlock) {
  Gate gate(1);
  EXPECT_EQ(gate.begin(10, 3), Boundary::go_on) << "three planned blocks ahead: one, and two more";
  std::atomic<int> through{0};
  {
    std::jthread boundary([&] {
      EXPECT_EQ(gate.begin(11, 4), Boundary::go_on);
      ++through;
    });
    std::jthread submit([&] {
      gate.enter(4);
      ++through;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(through, 0);
    gate.set_durable(1);
  }
  EXPECT_EQ(through, 2);
}

TEST(Gate, WakesWhoWaitsAtABoundary) {
  Gate gate(1);
  (void)gate.with_boundaries([](Boundaries& all) { return all.hold(); });
  std::jthread client([&] { EXPECT_EQ(gate.begin(0, 0), Boundary::save); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  gate.with_boundaries([](Boundaries& all) { all.decide(Boundary::save, 0); });
  client.join();
  std::jthread other([&] { EXPECT_THROW((void)gate.begin(9, 9), Error); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  gate.close(Failure{ExitStatus::locked, "text"});
}

TEST(Desk, RunsCommandsInOrderAndWakesUpForThem) {
  Desk desk;
  EXPECT_FALSE(desk.run_one());
  desk.wait(std::chrono::microseconds(1));
  std::jthread other([&] { desk.post([] {}); });
  desk.wait(std::chrono::seconds(30));  // ends when the command comes; else the test's time limit
  EXPECT_TRUE(desk.run_one());
  EXPECT_FALSE(desk.run_one());
}

TEST(Gauge, RemembersTheMaximum) {
  Gauge gauge;
  gauge.add(5);
  gauge.add(7);
  gauge.subtract(10);
  gauge.add(3);
  EXPECT_EQ(gauge.peak(), 12);
}

// --- what follows from a plan
// -----------------------------------------------------------------------------------------

PlannedUnit unit(std::uint32_t block, std::uint32_t matrix, std::vector<std::uint32_t> clients,
                 std::size_t diagonal_unit) {
  PlannedUnit planned;
  planned.id = {1, block, matrix};
  planned.name = fmt::format("block{}.matrix{}", block, matrix);
  planned.rows = 8;
  planned.cols = 16;
  planned.clients = std::move(clients);
  planned.diagonal_unit = diagonal_unit;
  return planned;
}

ExchangePlan plan_of_three() {
  ExchangePlan plan;
  plan.rank_of_client = {0, 1, 1, 3};
  plan.units = {unit(0, 0, {0, 1, 2}, 0), unit(0, 1, {0, 1, 2}, 0), unit(4, 0, {2, 3}, 2)};
  return plan;
}

TEST(PlanIndex, KnowsRanksBlocksAndGroups) {
  const PlanIndex index(plan_of_three(), 4);
  EXPECT_EQ(index.first_unit_of(0), 0U);
  EXPECT_EQ(index.first_unit_of(1), 2U);
  EXPECT_EQ(index.first_unit_of(5), 3U);
  EXPECT_EQ(index.block_of(3), 2U) << "the number of blocks";
  EXPECT_EQ(index.clients_on(0, 1), 2U);
  EXPECT_EQ(index.clients_on(2, 0), 0U);
  EXPECT_EQ(index.next_of(2, 0), 0U);
  EXPECT_EQ(index.next_of(2, 1), 1U);
  EXPECT_EQ(index.next_of(3, 0), 2U);
  EXPECT_EQ(index.next_of(3, 3), index.size()) << "no further one";
  EXPECT_EQ(index.block_of(1), 0U);
  EXPECT_EQ(index.block_of(2), 1U) << "the second block of the plan";
  EXPECT_EQ(index.last_of_group(0), 1U);
  EXPECT_EQ(index.last_of_group(2), 2U);
}

TEST(PlanIndex, TheFingerprintSeesEveryChange) {
  const std::int64_t original = PlanIndex(plan_of_three(), 4).fingerprint();
  EXPECT_EQ(PlanIndex(plan_of_three(), 4).fingerprint(), original);
  const std::vector<std::function<void(ExchangePlan&)>> changes = {
      [](ExchangePlan& plan) { plan.units[0].rows = 9; },
      [](ExchangePlan& plan) { plan.units[2].clients = {2}; },
      [](ExchangePlan& plan) { plan.rank_of_client[3] = 2; },
      [](ExchangePlan& plan) { plan.units[1].name = "other"; },
      [](ExchangePlan& plan) { plan.units[1].dtype = DType::bf16; },
      [](ExchangePlan& plan) { plan.units.pop_back(); },
  };
  for (const auto& change : changes) {
    ExchangePlan plan = plan_of_three();
    change(plan);
    EXPECT_NE(PlanIndex(plan, 4).fingerprint(), original);
  }
}

TEST(PlanIndex, TheFingerprintSeesWhereTheRoundBegins) {
  ExchangePlan plan;
  const std::int64_t original = PlanIndex(plan, 4).fingerprint();
  plan.first_block = 3;
  EXPECT_NE(PlanIndex(plan, 4).fingerprint(), original);
}

TEST(PlanIndex, ContradictionsAreRefused) {
  const std::vector<std::function<void(ExchangePlan&)>> mistakes = {
      [](ExchangePlan& plan) { plan.units[0].rows = 0; },
      [](ExchangePlan& plan) { plan.units[0].clients = {}; },
      [](ExchangePlan& plan) {
        plan.units[0].clients = {1, 0};
      },
      [](ExchangePlan& plan) {
        plan.units[0].clients = {0, 0};
      },
      [](ExchangePlan& plan) { plan.units[0].clients = {4}; },
      [](ExchangePlan& plan) { plan.rank_of_client[0] = 4; },
      [](ExchangePlan& plan) { plan.rank_of_client[0] = -1; },
      [](ExchangePlan& plan) { plan.units[0].diagonal_unit = 1; },
      [](ExchangePlan& plan) { plan.units[2].diagonal_unit = 1; },
      [](ExchangePlan& plan) { plan.first_block = 1; },
      [](ExchangePlan& plan) { std::swap(plan.units[0].id, plan.units[1].id); },
  };
  for (std::size_t i = 0; i < mistakes.size(); ++i) {
    ExchangePlan plan = plan_of_three();
    mistakes[i](plan);
    EXPECT_THROW(PlanIndex(plan, 4), LogicError) << "mistake " << i;
  }
}

}  // namespace
}  // namespace fedspallm::comm
