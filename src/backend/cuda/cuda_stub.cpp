// SPDX-License-Identifier: Apache-2.0
// Stands in for the CUDA backend in builds without it, so that asking for it is an error that says what to
// do.
#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/base/error.hpp"

namespace fedspallm::backend {

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  throw NotCompiled(
      fmt::format("backend \"cuda\" (device {}): this build has no CUDA; build it with the preset `cuda` "
                  "(cmake --preset cuda && cmake --build --preset cuda) or use backend = \"cpu\"",
                  options.device));
}

CudaDevices visible_cuda_devices() {
  return {{}, "this build has no CUDA (cmake --preset cuda builds it)"};
}

std::string cuda_runtime_version() {
  return "";
}

}  // namespace fedspallm::backend
