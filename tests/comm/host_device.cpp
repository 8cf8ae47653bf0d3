// SPDX-License-Identifier: Apache-2.0
#include "comm/host_device.hpp"

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/wire/device.hpp"

#include <gtest/gtest.h>

#include "comm/mpi_check.hpp"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <vector>

namespace fedspallm::comm::test {

namespace {

constexpr int kTag = 77;

class HostMerge final : public DeviceMerge {
 public:
  HostMerge(std::int64_t rows, std::int64_t cols, DType dtype, int q)
      : dtype_(dtype), merge_(rows, cols, {q}, {}) {}

  Found add(const std::byte* update, std::int64_t kept) override {
    const std::int64_t size = merge_.rows() * merge_.cols();
    const wire::DeviceLayout layout = wire::device_layout(merge_.rows(), merge_.cols(), kept, dtype_, false);
    wire::PackedMatrix matrix;
    matrix.rows = merge_.rows();
    matrix.cols = merge_.cols();
    matrix.dtype = dtype_;
    matrix.kept = kept;
    matrix.bits.resize(static_cast<std::size_t>(wire::mask_words(size)));
    matrix.values.resize(static_cast<std::size_t>(kept) * size_of(dtype_));
    std::memcpy(matrix.bits.data(), update + layout.bits, matrix.bits.size() * 8);
    if (kept > 0) std::memcpy(matrix.values.data(), update + layout.values, matrix.values.size());
    Found found;
    found.kept = wire::count_mask_bits(matrix.bits);
    found.padding_set = size % 64 != 0 && matrix.bits.back() >> (size % 64) != 0;
    if (found.kept != kept || found.padding_set) return found;
    found.largest = wire::largest_magnitude(matrix);
    const bool fits = static_cast<double>(found.largest) <= std::ldexp(1.0, merge_.scale().q + 56);
    if (fits) merge_.add(matrix);  // false for what is not finite: the caller refuses it
    return found;
  }
  aggregate::MergedMatrix finish(std::int64_t clients, const aggregate::MergeRules& rules,
                                 std::span<const std::int64_t> diagonal_sums) override {
    return aggregate::finish(merge_, clients, rules, dtype_, diagonal_sums);
  }

 private:
  DType dtype_;
  aggregate::PartialMerge merge_;
};

class HostPort final : public DevicePort {
 public:
  explicit HostPort(std::shared_ptr<HostDeviceState> state) : state_(std::move(state)) {}
  std::shared_ptr<std::byte> allocate(std::int64_t bytes) override {
    check<ResourceError>(!state_->full, "the device's memory is full");
    ++state_->allocated;
    return {new (std::align_val_t(wire::kDeviceAlignment)) std::byte[static_cast<std::size_t>(bytes)],
            [state = state_](std::byte* memory) {
              --state->allocated;
              operator delete[](memory, std::align_val_t(wire::kDeviceAlignment));
            }};
  }
  void upload(std::span<const std::byte> host, std::byte* device) override {
    std::memcpy(device, host.data(), host.size());
  }
  void download(const std::byte* device, std::span<std::byte> host) override {
    std::memcpy(host.data(), device, host.size());
  }
  std::unique_ptr<DeviceMerge> begin_merge(std::int64_t rows, std::int64_t cols, DType dtype,
                                           int q) override {
    return std::make_unique<HostMerge>(rows, cols, dtype, q);
  }

 private:
  std::shared_ptr<HostDeviceState> state_;
};

class MpiDeviceLink final : public DeviceLink {
 public:
  MpiDeviceLink(Communicator& comm, std::shared_ptr<HostDeviceState> state)
      : comm_(comm_of(comm)), rank_(comm.rank()), state_(std::move(state)) {}

  void send(int rank, std::span<const std::byte> bytes, Done done) override {
    ++state_->sent;
    if (rank == rank_) {
      to_self_.emplace_back(bytes, std::move(done));
      return;
    }
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(
        MPI_Isend(bytes.data(), checked_count(std::ssize(bytes)), MPI_BYTE, rank, kTag, comm_, &request),
        "MPI_Isend");
    pending_.push_back({request, std::move(done)});
  }
  void receive(int rank, std::span<std::byte> bytes, Done done) override {
    ++state_->received;
    if (rank == rank_) {
      from_self_.emplace_back(bytes, std::move(done));
      return;
    }
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(
        MPI_Irecv(bytes.data(), checked_count(std::ssize(bytes)), MPI_BYTE, rank, kTag, comm_, &request),
        "MPI_Irecv");
    pending_.push_back({request, std::move(done)});
  }
  bool poll() override {
    std::vector<Done> finished;
    while (!to_self_.empty() && !from_self_.empty()) {
      auto [source, sent] = std::move(to_self_.front());
      auto [target, arrived] = std::move(from_self_.front());
      to_self_.pop_front();
      from_self_.pop_front();
      EXPECT_EQ(source.size(), target.size()) << "both ends must agree, or NCCL would hang";
      std::memcpy(target.data(), source.data(), source.size());
      ++state_->to_self;
      finished.push_back(std::move(sent));
      finished.push_back(std::move(arrived));
    }
    for (Pending& one : pending_) {
      int done = 0;
      check_mpi(MPI_Test(&one.request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done != 0) finished.push_back(std::move(one.done));
    }
    std::erase_if(pending_, [](const Pending& one) { return one.request == MPI_REQUEST_NULL; });
    const int limit = state_->fail_poll_after;
    if (limit >= 0 && (finished_ += static_cast<int>(finished.size())) > limit)
      throw PeerError("the device link is broken");
    for (const Done& done : finished) done();
    return !finished.empty();
  }
  [[nodiscard]] bool idle() const override {
    return pending_.empty() && to_self_.empty() && from_self_.empty();
  }
  void abort() noexcept override {
    for (Pending& one : pending_) {
      MPI_Cancel(&one.request);
      MPI_Request_free(&one.request);
    }
    pending_.clear();
    to_self_.clear();
    from_self_.clear();
    state_->aborted = true;
  }

 private:
  struct Pending {
    MPI_Request request;
    Done done;
  };
  MPI_Comm comm_;
  int rank_;
  std::shared_ptr<HostDeviceState> state_;
  std::vector<Pending> pending_;
  std::deque<std::pair<std::span<const std::byte>, Done>> to_self_;
  std::deque<std::pair<std::span<std::byte>, Done>> from_self_;
  int finished_ = 0;
};

}  // namespace

std::shared_ptr<DeviceTransport> host_device(Communicator& comm,
                                             const std::shared_ptr<HostDeviceState>& state) {
  auto device = std::make_shared<DeviceTransport>();
  device->port = std::make_unique<HostPort>(state);
  device->link = std::make_unique<MpiDeviceLink>(comm, state);
  return device;
}

ExchangeOptions options_of(Transport transport, Communicator& comm) {
  ExchangeOptions options;
  options.transport = transport;
  if (transport == Transport::nccl) options.device = host_device(comm);
  return options;
}

ExchangeOptions options_of_nodes(const std::vector<int>& leaders, Communicator& comm) {
  constexpr std::int64_t kLargestUnit = 1 << 20;  // of the plans of tests
  ExchangeOptions options = options_of(Transport::reduce, comm);
  options.topology = Topology::nodes;
  options.leaders = leaders;
  options.node_memory = std::make_shared<NodeMemory>(comm, leaders, kLargestUnit);
  return options;
}

ExchangeOptions options_of(Way way, Communicator& comm) {
  if (way == Way::reduce) return options_of(Transport::reduce, comm);
  if (way == Way::nccl) return options_of(Transport::nccl, comm);
  if (way == Way::nodes) return options_of_nodes(even_nodes(comm.size(), 2), comm);
  ExchangeOptions options = options_of(Transport::gather, comm);
  if (way == Way::owners) options.topology = Topology::owners;
  return options;
}

}  // namespace fedspallm::comm::test
