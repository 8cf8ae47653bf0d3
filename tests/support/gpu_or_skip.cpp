// SPDX-License-Identifier: Apache-2.0
// Linked into test programs that need a GPU: without one every test is skipped, and says so in the words that
// CTest knows as skipped.
#include "fedspallm/backend/cuda.hpp"

#include <gtest/gtest.h>

namespace {

class GpuOrSkip : public testing::Environment {
 public:
  void SetUp() override {
    const fedspallm::backend::CudaDevices visible = fedspallm::backend::visible_cuda_devices();
    if (visible.devices.empty()) GTEST_SKIP() << "[  SKIPPED ] no GPU: " << visible.reason;
  }
};

const testing::Environment* const gpu_or_skip = testing::AddGlobalTestEnvironment(new GpuOrSkip);

}  // namespace
