// SPDX-License-Identifier: Apache-2.0
// Purpose: what an exchange needs of a rank's GPU for the transport nccl, so that comm depends on no backend:
// memory by opaque pointers, merging, and messages between devices. app makes a port from a backend;
// nccl_link() is the link of the product, tests have one over MPI. Also the decision whether GPUs can be
// used so. Non-goals: kernels; what is said about matrices (exchange.hpp).
#pragma once

#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/dtype.hpp"
#include "fedspallm/comm/communicator.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::comm {

/// One matrix merged on the root's device. Merge thread only.
class DeviceMerge {
 public:
  virtual ~DeviceMerge() = default;
  /// What an update turned out to hold: nothing that travelled is believed.
  struct Found {
    std::int64_t kept = 0;     // set mask bits, those of the padding too
    bool padding_set = false;  // a mask bit beyond the last weight is set
    float largest = 0;         // |value|; infinite or NaN where a value is not finite
  };
  /// Adds an update that lies at `update` as wire::device_layout() says; `kept` is what was announced. No
  /// more than `kept` values are read, whatever the mask says. Waits.
  virtual Found add(const std::byte* update, std::int64_t kept) = 0;
  /// The result, with the bits of aggregate::finish(); the sums are used up. Waits.
  /// @param clients, diagonal_sums  as there
  [[nodiscard]] virtual aggregate::MergedMatrix finish(std::int64_t clients,
                                                       const aggregate::MergeRules& rules,
                                                       std::span<const std::int64_t> diagonal_sums) = 0;
};

/// A rank's device. Each call waits for what it did; calls may come from several threads.
class DevicePort {
 public:
  virtual ~DevicePort() = default;
  /// Memory of its own, aligned to wire::kDeviceAlignment. @throws ResourceError
  [[nodiscard]] virtual std::shared_ptr<std::byte> allocate(std::int64_t bytes) = 0;
  virtual void upload(std::span<const std::byte> host, std::byte* device) = 0;
  virtual void download(const std::byte* device, std::span<std::byte> host) = 0;
  /// Sums in multiples of 2^q, all 0. One at a time.
  [[nodiscard]] virtual std::unique_ptr<DeviceMerge> begin_merge(std::int64_t rows, std::int64_t cols,
                                                                 DType dtype, int q) = 0;
};

/// Messages between devices. Between two ranks they arrive in the order in which they were sent; the receiver
/// knows how long each is. Communication thread only.
class DeviceLink {
 public:
  using Done = std::function<void()>;
  virtual ~DeviceLink() = default;
  /// The memory must live until `done` is called (by poll). Messages to oneself are sent and received alike.
  virtual void send(int rank, std::span<const std::byte> device, Done done) = 0;
  virtual void receive(int rank, std::span<std::byte> device, Done done) = 0;
  /// Moves everything on; false when nothing happened. @throws PeerError when the link is broken
  virtual bool poll() = 0;
  [[nodiscard]] virtual bool idle() const = 0;
  /// The exchange ends without order: nothing of it may touch memory any more when this returns.
  virtual void abort() noexcept = 0;
};

/// Both, as an exchange takes them; the same kind on all ranks.
struct DeviceTransport {
  std::unique_ptr<DevicePort> port;
  std::unique_ptr<DeviceLink> link;  // on ranks that take part
};

/// What a rank says of itself before the transport is chosen.
struct RankDevice {
  std::string host;
  std::string uuid = {};   // of its GPU; "" = it computes on a CPU
  int nccl = 0;            // version of the library that this process can load, 0 = none
  std::string lacks = {};  // why there is none
  bool clients = false;
};
/// Whether updates can travel from GPU to GPU.
struct DeviceDecision {
  bool possible = false;
  std::string reason;      // one line: why not, or which ranks take part
  std::vector<int> ranks;  // that take part: the root, and ranks with clients; ascending
  [[nodiscard]] bool takes_part(int rank) const;
};
/// @param ranks  by rank, not empty
[[nodiscard]] DeviceDecision decide_device(std::span<const RankDevice> ranks);

/// Version of NCCL that this process can load (22809 = 2.28.9), or why there is none. Loads it.
struct NcclLibrary {
  int version = 0;
  std::string lacks;
};
[[nodiscard]] NcclLibrary nccl_library();
/// Whether this build could use one.
[[nodiscard]] bool nccl_built();

/// Collective over all ranks; on those of `ranks` a link over NCCL, elsewhere nothing.
/// @param device  of this rank, by CUDA's number
/// @param limit_seconds  for the ranks to find each other
/// @throws PeerError on every rank alike, naming ranks and causes, when it cannot be had
[[nodiscard]] std::unique_ptr<DeviceLink> make_nccl_link(Communicator& communicator,
                                                         std::span<const int> ranks, int device,
                                                         double limit_seconds);

}  // namespace fedspallm::comm
