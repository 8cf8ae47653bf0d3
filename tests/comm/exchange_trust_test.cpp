// SPDX-License-Identifier: Apache-2.0
// What a rank sends is believed only after it was checked: updates that are damaged or that lie are refused
// by name, and an MPI call that fails comes out as a PeerError.
#include "fedspallm/base/hash.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/exchange_case.hpp"
#include "comm/link.hpp"
#include "wire/header.hpp"
#include <chrono>
#include <cstring>
#include <limits>

namespace fedspallm::comm {
namespace {

using namespace test;  // NOLINT: the tests' own helpers
using testing::HasSubstr;
using testing::StartsWith;

/// Changes header and payload of an encoded update and makes its checksums right again.
void forge(std::span<std::byte> bytes,
           const std::function<void(wire::Header&, std::span<std::byte>)>& change) {
  const auto head = bytes.first<wire::kHeaderBytes>();
  const auto payload = bytes.subspan(wire::kHeaderBytes);
  wire::Header header = wire::read_header(head, "a forged update");
  change(header, payload);
  header.payload_checksum = checksum(payload);
  wire::write_header(header, head);
}

/// Place of the first value of a 5 x 13 matrix in the payload, after its mask.
constexpr std::size_t kFirstValue = (5 * 13 + 7) / 8;

void put_float(std::span<std::byte> payload, std::size_t place, float value) {
  std::memcpy(payload.data() + place, &value, sizeof value);
}

struct Lie {
  const char* name;
  std::function<void(wire::Header&, std::span<std::byte>)> change;
  const char* expected;
};

std::vector<Lie> lies() {
  using Bytes = std::span<std::byte>;
  return {
      {"another client", [](wire::Header& header, Bytes) { header.client = 0; }, "client 0"},
      {"another block", [](wire::Header& header, Bytes) { header.unit.block = 1; }, "block 1"},
      {"another round", [](wire::Header& header, Bytes) { header.unit.round = 9; }, "round 9"},
      {"another shape", [](wire::Header& header, Bytes) { std::swap(header.rows, header.cols); }, "13"},
      {"a shape that overflows",
       [](wire::Header& header, Bytes) { header.rows = header.cols = std::int64_t{1} << 62; }, ""},
      {"negative rows", [](wire::Header& header, Bytes) { header.rows = -5; }, "-5"},
      {"another dtype", [](wire::Header& header, Bytes) { header.dtype = 77; }, ""},
      {"a count that its mask has not", [](wire::Header& header, Bytes) { header.kept += 1; }, ""},
      {"a negative count", [](wire::Header& header, Bytes) { header.kept = -1; }, ""},
      {"a mask that its count has not", [](wire::Header&, Bytes all) { all[1] ^= std::byte{4}; }, "mask"},
      {"bits in the padding", [](wire::Header&, Bytes all) { all[kFirstValue - 1] |= std::byte{0x80}; }, ""},
      {"a value that is not a number",
       [](wire::Header&, Bytes all) { put_float(all, kFirstValue, std::numeric_limits<float>::quiet_NaN()); },
       "nan"},
      {"an infinite value",
       [](wire::Header&, Bytes all) { put_float(all, kFirstValue, -std::numeric_limits<float>::infinity()); },
       "inf"},
      {"a value above the announced largest",
       [](wire::Header&, Bytes all) { put_float(all, kFirstValue, -1e30F); }, "announced as the largest"},
      {"a diagonal above the announced largest",
       [](wire::Header&, Bytes all) { put_float(all, all.size() - 4, 1e30F); }, "announced as the largest"},
      {"a negative diagonal", [](wire::Header&, Bytes all) { put_float(all, all.size() - 4, -1); }, "diag"},
      {"no diagonal", [](wire::Header& header, Bytes) { header.has_diagonal = 0; }, ""},
      {"a payload of another size", [](wire::Header& header, Bytes) { header.payload_bytes += 1; }, ""},
      {"a report with impossible counts", [](wire::Header& header, Bytes) { header.report.kept_zeros = -3; },
       ""},
  };
}

TEST(Trust, AnUpdateThatLiesIsRefusedNamingClientRankAndMatrix) {
  Communicator comm;
  if (comm.size() == 1) GTEST_SKIP() << "nothing travels";
  const auto planned = make_plan({.clients = 4, .ranks = comm.size(), .shapes = {{5, 13, DType::f32}}});
  for (const Lie& lie : lies()) {
    SCOPED_TRACE(lie.name);
    ExchangeOptions options;
    if (comm.rank() == 1) {
      options.before_send = [&, first = true](std::span<std::byte> bytes) mutable {
        if (std::exchange(first, false)) forge(bytes, lie.change);
      };
    }
    Exchange exchange(comm, planned, options, [](const CompletedUnit&) {});
    const std::string thrown = thrown_by([&] {
      deliver_all(exchange, planned, comm.rank(), 0);
      exchange.finish();
    });
    EXPECT_THAT(thrown, StartsWith("2: rank 0 on "));
    EXPECT_THAT(thrown, HasSubstr("rank 1 sent as client 1's update of model.layers.0.matrix0.weight"));
    EXPECT_THAT(thrown, HasSubstr(lie.expected));
  }
}

TEST(Trust, ADamagedUpdateIsRefusedWhateverByteIsHit) {
  Communicator comm;
  if (comm.size() == 1) GTEST_SKIP() << "nothing travels";
  const auto planned = make_plan({.clients = 2, .ranks = comm.size(), .blocks = 1});
  for (std::size_t place = 0; place < 200; place += 7) {
    ExchangeOptions options;
    if (comm.rank() == 1)
      options.before_send = [&](std::span<std::byte> bytes) { bytes[place] ^= std::byte{1}; };
    Exchange exchange(comm, planned, options, [](const CompletedUnit&) {});
    const std::string thrown = thrown_by([&] {
      deliver_all(exchange, planned, comm.rank(), 0);
      exchange.finish();
    });
    EXPECT_THAT(thrown, StartsWith("2: rank 0 on ")) << "byte " << place;
    EXPECT_THAT(thrown, HasSubstr("rank 1 sent as client 1's update"));
  }
}

/// A rank's link on a communicator of its own, without an exchange.
class MpiErrors : public testing::Test {
 protected:
  /// Moves the link on until something is thrown.
  std::string provoked() {
    return thrown_by([&] {
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
      while (std::chrono::steady_clock::now() < end) (void)link_.poll([](int, Message&&) {});
    });
  }
  [[nodiscard]] int next() const { return (comm_.rank() + 1) % comm_.size(); }
  [[nodiscard]] int previous() const { return (comm_.rank() + comm_.size() - 1) % comm_.size(); }
  Communicator comm_;
  LinkCounters counters_;
  Link link_{comm_, kMessageLimit, counters_};
};

using OneLink = MpiErrors;

TEST_F(OneLink, OnePollHandlesAllControlMessagesThatAreThere) {
  for (int message = 0; message < 10; ++message) link_.post(comm_.rank(), FinishMessage());
  int handled = 0;
  EXPECT_TRUE(link_.poll([&](int, Message&&) { ++handled; }));
  EXPECT_EQ(handled, 10);
}

TEST_F(MpiErrors, AnInvalidRankIsAPeerErrorNamingTheCall) {
  EXPECT_THAT(thrown_by([&] { link_.post(comm_.size() + 5, FinishMessage()); }),
              testing::AllOf(StartsWith("6: MPI_Isend failed: "), HasSubstr("MPI_ERR_RANK")));
  std::vector<std::byte> bytes(10);
  EXPECT_THAT(thrown_by([&] { link_.receive(-77, Tag::payload, bytes, [] {}); }),
              testing::AllOf(StartsWith("6: MPI_Irecv failed: "), HasSubstr("MPI_ERR_RANK")));
}

TEST_F(MpiErrors, ATruncatedReceiveIsAPeerError) {
  if (comm_.size() == 1) GTEST_SKIP() << "Open MPI cuts a message to oneself off in silence; we send none";
  const std::vector<std::byte> sent(10);
  std::vector<std::byte> received(5);
  link_.receive(previous(), Tag::payload, received, [] { ADD_FAILURE() << "it was cut off"; });
  link_.send(next(), Tag::payload, sent, [] {});
  EXPECT_THAT(provoked(),
              testing::AllOf(StartsWith("6: MPI_Testsome failed: "), HasSubstr("MPI_ERR_TRUNCATE")));
  comm_.barrier();
}

TEST_F(MpiErrors, AMessageShorterThanAnnouncedIsAPeerError) {
  const std::vector<std::byte> sent(5);
  std::vector<std::byte> received(10);
  link_.receive(previous(), Tag::payload, received, [] { ADD_FAILURE() << "half of it is missing"; });
  link_.send(next(), Tag::payload, sent, [] {});
  EXPECT_THAT(provoked(), HasSubstr(fmt::format(
                              "6: rank {} sent a message of 5 bytes where 10 were announced", previous())));
  comm_.barrier();
}

TEST_F(MpiErrors, AControlMessageThatIsNoneIsAPeerError) {
  if (comm_.size() == 1) GTEST_SKIP() << "messages to oneself take a shortcut";
  const std::vector<std::byte> sent(3, std::byte{250});
  link_.send(next(), Tag::control, sent, [] {});
  EXPECT_THAT(provoked(), HasSubstr("6: control message of unknown kind 250"));
  comm_.barrier();
}

}  // namespace
}  // namespace fedspallm::comm
