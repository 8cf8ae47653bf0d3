// SPDX-License-Identifier: Apache-2.0
// Purpose: a device that is host memory, and a link between such devices over MPI with the manners of
// NCCL's: no tags, order alone tells what a message is; a message to oneself moves once both of its ends are
// known. With it the protocol of the transport nccl runs in ordinary MPI tests.
#pragma once

#include "fedspallm/comm/exchange.hpp"

#include "comm/exchange_case.hpp"
#include <atomic>
#include <memory>

namespace fedspallm::comm::test {

/// What a test may look at, and break.
struct HostDeviceState {
  std::atomic<std::int64_t> sent{0}, received{0}, to_self{0};
  std::atomic<std::int64_t> allocated{0};  // pieces of memory alive
  std::atomic<bool> aborted{false};
  std::atomic<bool> full{false};         // allocate() throws ResourceError
  std::atomic<int> fail_poll_after{-1};  // finished messages after which poll() throws PeerError; -1 = never
};

[[nodiscard]] std::shared_ptr<DeviceTransport> host_device(
    Communicator& comm, const std::shared_ptr<HostDeviceState>& state = std::make_shared<HostDeviceState>());

/// Options of a transport; with a host_device for nccl.
[[nodiscard]] ExchangeOptions options_of(Transport transport, Communicator& comm);
/// Options of a way of merging, collective; with nodes of two ranks. Owners finish by the rules that
/// merge_serially() finishes by.
[[nodiscard]] ExchangeOptions options_of(Way way, Communicator& comm);
/// Topology nodes with these leaders by rank. Collective.
[[nodiscard]] ExchangeOptions options_of_nodes(const std::vector<int>& leaders, Communicator& comm);

}  // namespace fedspallm::comm::test
