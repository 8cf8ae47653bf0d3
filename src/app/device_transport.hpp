// SPDX-License-Identifier: Apache-2.0
// Purpose: updates from GPU to GPU: a backend as the device port that comm wants, and the decision of all
// ranks whether they can be used. Non-goals: the protocol (comm/exchange.hpp), NCCL (comm/device.hpp).
#pragma once

#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/comm/device.hpp"
#include "fedspallm/config/config.hpp"

#include <memory>
#include <optional>
#include <string>

namespace fedspallm::app {

/// `backend` outlives the port and all memory that it gave.
[[nodiscard]] std::unique_ptr<comm::DevicePort> make_device_port(backend::Backend& backend);

/// What all ranks decided.
struct DeviceChoice {
  std::shared_ptr<comm::DeviceTransport> transport;  // null: messages go through host memory
  std::string reason;                                // of either; one line
  bool warn = false;                                 // there are GPUs, but updates do not go between them
};

/// Collective. @param device  this rank's GPU, nothing when it computes on a CPU
/// @throws ConfigError on every rank when `kind` demands nccl and it cannot be had
[[nodiscard]] DeviceChoice choose_device_transport(comm::Communicator& communicator,
                                                   backend::Backend& backend,
                                                   const std::optional<backend::CudaDevice>& device,
                                                   config::TransportKind kind, bool has_clients);

}  // namespace fedspallm::app
