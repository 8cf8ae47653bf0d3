// SPDX-License-Identifier: Apache-2.0
// Purpose: messages between GPUs over NCCL: sends and receives that were asked for since the last poll() go
// out as one group on a stream of its own, so they overlap with the backend's work; nothing here waits. The
// communicator does not block: a call that is "in progress" is polled, so a peer that is gone ends in an
// error instead of a hang. Not thread-safe. Non-goals: what a message means, who may take part.
#pragma once

#include "fedspallm/comm/device.hpp"

#include "nccl_api.hpp"
#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace fedspallm::comm {

class NcclLink final : public DeviceLink {
 public:
  /// Begins to join; ready() tells when all ranks have. @param ranks  of the world, ascending, `rank` among
  /// them
  NcclLink(std::shared_ptr<const NcclApi> api, const ncclUniqueId& id, std::span<const int> ranks, int rank,
           int device);
  ~NcclLink() override;
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  /// @throws PeerError when it cannot be
  [[nodiscard]] bool ready();

  void send(int rank, std::span<const std::byte> device, Done done) override;
  void receive(int rank, std::span<std::byte> device, Done done) override;
  bool poll() override;
  [[nodiscard]] bool idle() const override;
  void abort() noexcept override;

 private:
  struct Operation {
    int peer = 0;  // NCCL's number
    bool sends = false;
    std::byte* memory = nullptr;
    std::size_t bytes = 0;
    Done done;
  };
  /// Operations that went out together; the event is recorded behind them.
  struct Group {
    std::vector<Operation> operations;
    cudaEvent_t event = nullptr;
  };
  [[nodiscard]] int peer_of(int rank) const;
  void add(Operation operation);
  [[nodiscard]] bool in_progress(const char* call);
  [[nodiscard]] std::vector<Operation> next_group();
  void submit(const std::vector<Operation>& operations);
  bool launch();
  bool finish_groups();
  [[nodiscard]] bool closed_in_time() noexcept;

  std::shared_ptr<const NcclApi> api_;
  std::vector<int> ranks_;
  int own_ = 0;  // NCCL's number
  int device_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::vector<cudaEvent_t> free_events_;
  std::deque<Operation> queue_;
  std::deque<Operation> to_self_, from_self_;  // until there is one of each: NCCL wants both in one group
  std::optional<Group> launching_;             // its ncclGroupEnd is in progress
  std::deque<Group> running_;
};

}  // namespace fedspallm::comm
