// SPDX-License-Identifier: Apache-2.0
// Purpose: copies between pageable host memory and the device through two pinned buffers in turn, so that the
// host's copying and the bus work at the same time. An upload returns when the source may be reused; a
// download when the data are there. Non-goals: strides, widening.
#pragma once

#include "handles.hpp"
#include <array>
#include <cstddef>

namespace fedspallm::backend::cuda {

class Staging {
 public:
  /// @param chunk  bytes of each pinned buffer, taken at the first copy (tests set it small)
  explicit Staging(cudaStream_t stream, std::size_t chunk = std::size_t{16} << 20)
      : stream_(stream), chunk_(chunk) {}
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void upload(const void* source, std::size_t bytes, void* device);
  void download(const void* device, std::size_t bytes, void* destination);

 private:
  struct Buffer {
    PinnedMemory memory;
    Event used;  // recorded after the last copy that touches the buffer
    bool busy = false;
  };
  /// The next buffer, once nothing uses it any more.
  [[nodiscard]] Buffer& next();
  void wait(Buffer& buffer);
  void mark(Buffer& buffer);

  cudaStream_t stream_;
  std::size_t chunk_;
  std::array<Buffer, 2> buffers_;
  std::size_t turn_ = 0;
};

}  // namespace fedspallm::backend::cuda
