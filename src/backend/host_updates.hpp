// SPDX-License-Identifier: Apache-2.0
// Purpose: UpdateOps of backends whose memory is the host's: the plain meaning of each. They make the
// transport nccl testable without a GPU. Non-goal: speed.
#pragma once

#include "fedspallm/backend/backend.hpp"

namespace fedspallm::backend {

class HostUpdates final : public UpdateOps {
 public:
  /// `sparse` outlives this.
  explicit HostUpdates(SparseOps& sparse) : sparse_(sparse) {}
  [[nodiscard]] std::shared_ptr<std::byte> allocate(std::int64_t bytes) override;
  void write(std::span<const std::byte> host, std::byte* device) override;
  void read(const std::byte* device, std::span<std::byte> host) override;
  Packed pack(View w, View mask, DType dtype, const std::function<Place(std::int64_t kept)>& place) override;
  void clear(std::int64_t weights, std::byte* tiles) override;
  Added add(const Update& update, int q, std::byte* tiles) override;
  [[nodiscard]] Finished finish(const Finish& how, std::byte* tiles) override;

 private:
  SparseOps& sparse_;
};

}  // namespace fedspallm::backend
