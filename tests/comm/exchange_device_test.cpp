// SPDX-License-Identifier: Apache-2.0
// The transport nccl's protocol, over a device that is host memory and a link over MPI (host_device.hpp).
// That it gives the serial bits is tested with the other transports.
#include "fedspallm/wire/device.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/exchange_case.hpp"
#include "comm/host_device.hpp"
#include "wire/header.hpp"
#include <cstring>
#include <limits>

namespace fedspallm::comm {
namespace {

using namespace test;  // NOLINT: the tests' own helpers
using testing::HasSubstr;

class OnDevices : public testing::Test {
 protected:
  [[nodiscard]] ExchangeOptions options() {
    ExchangeOptions options;
    options.transport = Transport::nccl;
    options.device = host_device(comm_, state_);
    return options;
  }
  Communicator comm_;
  std::shared_ptr<HostDeviceState> state_ = std::make_shared<HostDeviceState>();
};

TEST_F(OnDevices, TheRootsOwnUpdatesTakeTheSameWay) {
  const auto plan = make_plan({.clients = 3, .placement = Placement::all_on_root, .ranks = comm_.size()});
  const auto outcome = run_exchange(comm_, plan, options(), 0);
  const std::int64_t updates = comm_.rank() == 0 ? 3 * static_cast<std::int64_t>(plan.units.size()) : 0;
  EXPECT_EQ(state_->to_self, updates);
  EXPECT_EQ(state_->sent, updates);
  EXPECT_EQ(state_->received, updates);
  EXPECT_TRUE(comm_.rank() != 0 || outcome.seen == merge_serially(plan));
}

TEST_F(OnDevices, AllMemoryIsGivenBack) {
  {
    const auto plan = make_plan({.clients = 4, .ranks = comm_.size(), .blocks = 3});
    (void)run_exchange(comm_, plan, options(), 0);
  }
  EXPECT_EQ(state_->allocated, 0);
  EXPECT_FALSE(state_->aborted);
}

/// As a backend hands them over: bits and values on the device, header and diagonal not yet.
wire::MatrixUpdate on_device(DevicePort& port, const wire::MatrixUpdate& update) {
  const auto image = wire::device_image(update);
  wire::MatrixUpdate moved = update;
  auto device = std::make_shared<wire::DeviceUpdate>();
  device->largest = wire::largest_magnitude(update.matrix);
  device->memory = port.allocate(std::ssize(image));
  std::vector<std::byte> blank = image;
  std::fill_n(blank.begin(), wire::kHeaderBytes, std::byte{0xee});
  port.upload(blank, device->memory.get());
  moved.device = device;
  moved.matrix.bits.clear();
  moved.matrix.values.clear();
  return moved;
}

TEST_F(OnDevices, UpdatesThatWerePackedThereGiveTheSerialBits) {
  const auto plan =
      make_plan({.clients = 4, .ranks = comm_.size(), .shapes = {{5, 40, DType::bf16}, {3, 40, DType::f32}}});
  ExchangeOptions chosen = options();
  std::vector<Seen> seen;
  Exchange exchange(comm_, plan, chosen, [&](const CompletedUnit& unit) { seen.push_back(copy_of(unit)); });
  for (std::size_t index = 0; index < plan.units.size(); ++index)
    for (const std::uint32_t client : plan.units[index].clients)
      if (plan.rank_of_client[client] == comm_.rank())
        exchange.submit(index, on_device(*chosen.device->port, make_update(plan, index, client)));
  exchange.finish();
  EXPECT_TRUE(comm_.rank() != 0 || seen == merge_serially(plan));
}

TEST_F(OnDevices, AnotherTransportRefusesThem) {
  const auto plan = make_plan({.clients = static_cast<std::uint32_t>(comm_.size()), .ranks = comm_.size()});
  const auto port = host_device(comm_, state_);
  Exchange exchange(comm_, plan, {}, [](const CompletedUnit&) {});
  const auto client = static_cast<std::uint32_t>(comm_.rank());
  EXPECT_THAT(thrown_by([&] { exchange.submit(0, on_device(*port->port, make_update(plan, 0, client))); }),
              HasSubstr("need the transport nccl"));
  deliver_all(exchange, plan, comm_.rank(), 0);
  exchange.finish();
}

TEST_F(OnDevices, NeedAPortAndALink) {
  const auto plan = make_plan({.clients = static_cast<std::uint32_t>(comm_.size()), .ranks = comm_.size()});
  ExchangeOptions without = options();
  without.device = nullptr;
  EXPECT_THAT(thrown_by([&] { Exchange(comm_, plan, without, [](const CompletedUnit&) {}); }),
              HasSubstr("needs a device port and link"));
}

TEST_F(OnDevices, ABrokenLinkEndsTheExchangeAndIsAborted) {
  if (comm_.size() > 1) GTEST_SKIP() << "the others would learn of it from the watchdog";
  const auto plan = make_plan({.clients = 3, .blocks = 4});
  state_->fail_poll_after = 3;
  const std::string thrown = thrown_by([&] { (void)run_exchange(comm_, plan, options(), 0); });
  EXPECT_THAT(thrown, HasSubstr("6: rank 0 on "));
  EXPECT_THAT(thrown, HasSubstr("the device link is broken"));
  EXPECT_TRUE(state_->aborted);
}

struct Lie {
  const char* name;
  std::function<void(std::span<std::byte> image, const wire::DeviceLayout& layout)> change;
  const char* expected;
};

void change_header(std::span<std::byte> image, const std::function<void(wire::Header&)>& change) {
  const auto head = image.first<wire::kHeaderBytes>();
  wire::Header header = wire::read_header(head, "a forged update");
  change(header);
  wire::write_header(header, head);
}

void put_float(std::span<std::byte> image, std::int64_t place, float value) {
  std::memcpy(image.data() + place, &value, sizeof value);
}

std::vector<Lie> lies() {
  using Bytes = std::span<std::byte>;
  using Layout = wire::DeviceLayout;
  return {
      {"another client",
       [](Bytes image, const Layout&) { change_header(image, [](auto& header) { header.client = 99; }); },
       "client 99"},
      {"another block",
       [](Bytes image, const Layout&) { change_header(image, [](auto& header) { header.unit.block = 7; }); },
       "block 7"},
      {"another count",
       [](Bytes image, const Layout&) { change_header(image, [](auto& header) { ++header.kept; }); },
       "were announced"},
      {"a damaged header", [](Bytes image, const Layout&) { image[20] ^= std::byte{1}; }, "header"},
      {"a mask that its count has not",
       [](Bytes image, const Layout& layout) {
         image[static_cast<std::size_t>(layout.bits)] ^= std::byte{4};
       },
       "set mask bits where"},
      {"bits in the padding",
       [](Bytes image, const Layout& layout) {
         image[static_cast<std::size_t>(layout.bits) + 15] ^= std::byte{0x80};
       },
       "beyond the last weight"},
      {"a value that is not a number",
       [](Bytes image, const Layout& layout) {
         put_float(image, layout.values, std::numeric_limits<float>::quiet_NaN());
       },
       "nan"},
      {"a value above the announced largest",
       [](Bytes image, const Layout& layout) { put_float(image, layout.values, -1e30F); },
       "announced as the largest"},
      {"a negative diagonal",
       [](Bytes image, const Layout& layout) { put_float(image, layout.diagonal, -1); }, "diag(H)"},
      {"a diagonal above the announced largest",
       [](Bytes image, const Layout& layout) { put_float(image, layout.diagonal, 1e30F); }, "diag(H)"},
  };
}

TEST_F(OnDevices, AnUpdateThatLiesIsRefusedNamingClientRankAndMatrix) {
  const auto planned = make_plan({.clients = 4, .ranks = comm_.size(), .shapes = {{5, 13, DType::f32}}});
  const int liar = comm_.size() - 1;
  for (const Lie& lie : lies()) {
    SCOPED_TRACE(lie.name);
    ExchangeOptions chosen = options();
    const auto client = static_cast<std::uint32_t>(liar);
    const std::int64_t kept = make_update(planned, 0, client).matrix.kept;
    const wire::DeviceLayout layout = wire::device_layout(5, 13, kept, DType::f32, true);
    if (comm_.rank() == liar)
      chosen.before_send = [&, first = true](std::span<std::byte> image) mutable {
        if (std::exchange(first, false)) lie.change(image, layout);
      };
    Exchange exchange(comm_, planned, chosen, [](const CompletedUnit&) {});
    const std::string thrown = thrown_by([&] {
      deliver_all(exchange, planned, comm_.rank(), 0);
      exchange.finish();
    });
    EXPECT_THAT(thrown, testing::StartsWith("2: rank 0 on "));
    EXPECT_THAT(thrown,
                HasSubstr(fmt::format("rank {} sent as client {}'s update of model.layers.0.matrix0.weight",
                                      liar, liar)));
    EXPECT_THAT(thrown, HasSubstr(lie.expected));
  }
  EXPECT_EQ(state_->allocated, 0);
}

}  // namespace
}  // namespace fedspallm::comm
