// SPDX-License-Identifier: Apache-2.0
#include "engine.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/format.h>

namespace fedspallm::backend::cuda {

namespace {

/// Checks that the device exists and makes it current, before anything is created on it.
CudaOptions checked(const CudaOptions& options) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    throw ConfigError(
        fmt::format("backend \"cuda\": no CUDA device can be used here ({}); look at "
                    "`nvidia-smi`, or use backend = \"cpu\"",
                    cudaGetErrorString(status)));
  }
  check<ConfigError>(options.device >= 0 && options.device < count,
                     fmt::format("backend \"cuda\": device {} was asked for, but {} devices are visible "
                                 "(CUDA_VISIBLE_DEVICES chooses them)",
                                 options.device, count));
  check_cuda(cudaSetDevice(options.device), "cudaSetDevice");
  return options;
}

std::string describe(const CudaOptions& options) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, options.device), "cudaGetDeviceProperties");
  return fmt::format("cuda/{}/sm_{}{}/{}", properties.name, properties.major, properties.minor,
                     Blas::version());
}

}  // namespace

Engine::Engine(const CudaOptions& options)
    : options_(checked(options)),
      kernel_set_(describe(options)),
      stream_(make_stream()),
      memory(options.device, stream_.get()),
      staging(stream_.get()),
      scratch(memory),
      copies(memory),
      blas(memory, stream_.get()) {}

Engine::~Engine() {
  static_cast<void>(cudaStreamSynchronize(stream_.get()));
}

cudaStream_t Engine::stream() {
  check_cuda(cudaSetDevice(options_.device), "cudaSetDevice");
  return stream_.get();
}

void Engine::synchronize() {
  check_cuda(cudaStreamSynchronize(stream()), "cudaStreamSynchronize");
}

}  // namespace fedspallm::backend::cuda
