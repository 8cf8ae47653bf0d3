// SPDX-License-Identifier: Apache-2.0
// Purpose: what the ops of the CUDA backend share: the device, its one stream, memory, staging, workspaces
// and the libraries' handles. Handles and math modes are set once, here. Non-goal: the ops themselves.
#pragma once

#include "fedspallm/backend/cuda.hpp"

#include "../access.hpp"
#include "blas.hpp"
#include "device_memory.hpp"
#include "geometry.hpp"
#include "staging.hpp"
#include "strided.hpp"
#include <cstdint>
#include <string>

namespace fedspallm::backend::cuda {

class Engine {
 public:
  /// @throws ConfigError when there is no such device, naming those there are
  explicit Engine(const CudaOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// The stream of every launch and copy; makes the device current for the calling thread.
  [[nodiscard]] cudaStream_t stream();
  /// The same for code that must not throw.
  [[nodiscard]] cudaStream_t own_stream() const noexcept { return stream_.get(); }
  void synchronize();
  [[nodiscard]] const CudaOptions& options() const { return options_; }
  /// E.g. "cuda/NVIDIA H200/sm_90/cublas-13.0.2".
  [[nodiscard]] const std::string& kernel_set() const { return kernel_set_; }

  /// One value from the device; waits for all work before it.
  template <class T>
  [[nodiscard]] T read(const T* device) {
    T value;
    static_cast<void>(stream());
    staging.download(device, sizeof(T), &value);
    return value;
  }
  /// Host elements -> device, in stream order.
  template <class T>
  void upload(const T* host, std::int64_t count, T* device) {
    static_cast<void>(stream());
    staging.upload(host, static_cast<std::size_t>(count) * sizeof(T), device);
  }

 private:
  CudaOptions options_;
  std::string kernel_set_;
  Stream stream_;

 public:  // after the stream, which they need for all of their lives
  DeviceMemory memory;
  Staging staging;
  Workspace scratch;  // of the op that runs
  Workspace copies;   // of copies between host and views that are not contiguous
  Blas blas;
};

[[nodiscard]] inline Strided<float> device_floats(const View& view) {
  return {Access::f32(view), view.rows(), view.cols(), view.stride()};
}
[[nodiscard]] inline Strided<std::uint8_t> device_bytes(const View& view) {
  return {Access::u8(view), view.rows(), view.cols(), view.stride()};
}
/// A row vector that may be left out: null then.
[[nodiscard]] inline const float* device_row(const View& view) {
  return view.empty() ? nullptr : Access::f32(view);
}

}  // namespace fedspallm::backend::cuda
