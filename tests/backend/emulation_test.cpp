// SPDX-License-Identifier: Apache-2.0
// The emulation itself: waiting, shuffling, and that it tells a kernel that forgets to wait.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>
#include <vector>

namespace {

template <class... Expected, class... Actual>
cudaError_t launch(unsigned blocks, unsigned threads, void (*kernel)(Expected...), Actual... arguments) {
  if (const cudaError_t chosen = cudaSetDevice(0); chosen != cudaSuccess) return chosen;
  cudaLaunchConfig_t config;
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

__global__ void number_threads(int* out) {
  out[blockIdx.x * blockDim.x + threadIdx.x] += static_cast<int>(threadIdx.x);
}

TEST(Emulation, EveryThreadOfEveryBlockRunsOnce) {
  std::vector<int> out(3 * 64, 100);
  ASSERT_EQ(launch(3, 64, number_threads, out.data()), cudaSuccess);
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], 100 + static_cast<int>(i % 64));
}

template <bool waits>
__global__ void reverse_block(int* values) {
  __shared__ int shared[256];
  shared[threadIdx.x] = values[threadIdx.x];
  if (waits) __syncthreads();
  values[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST(Emulation, SynchronisedThreadsSeeEachOthersStores) {
  std::vector<int> values(256);
  std::iota(values.begin(), values.end(), 1);
  ASSERT_EQ(launch(1, 256, reverse_block<true>, values.data()), cudaSuccess);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(values[static_cast<std::size_t>(i)], 256 - i);
}

TEST(Emulation, AMissingWaitGivesWrongResults) {
  std::vector<int> values(256);
  std::iota(values.begin(), values.end(), 1);
  ASSERT_EQ(launch(1, 256, reverse_block<false>, values.data()), cudaSuccess);
  int wrong = 0;
  for (int i = 0; i < 256; ++i) wrong += values[static_cast<std::size_t>(i)] == 256 - i ? 0 : 1;
  EXPECT_GT(wrong, 0);
}

__global__ void shuffles(unsigned* out) {
  const unsigned lane = threadIdx.x % 32;
  out[4 * threadIdx.x] = __shfl_sync(0xffffffffU, threadIdx.x, 5);
  out[4 * threadIdx.x + 1] = __shfl_xor_sync(0xffffffffU, threadIdx.x, 1U);
  out[4 * threadIdx.x + 2] = __shfl_up_sync(0xffffffffU, threadIdx.x, 2U);
  out[4 * threadIdx.x + 3] = __ballot_sync(0xffffffffU, lane % 3 == 0);
}

TEST(Emulation, LanesExchangeWithinTheirWarp) {
  std::vector<unsigned> out(4 * 64);
  ASSERT_EQ(launch(1, 64, shuffles, out.data()), cudaSuccess);
  unsigned thirds = 0;
  for (unsigned lane = 0; lane < 32; lane += 3) thirds |= 1U << lane;
  for (unsigned thread = 0; thread < 64; ++thread) {
    EXPECT_EQ(out[4 * thread], thread / 32 * 32 + 5);
    EXPECT_EQ(out[4 * thread + 1], thread ^ 1U);
    EXPECT_EQ(out[4 * thread + 2], thread % 32 >= 2 ? thread - 2 : thread);
    EXPECT_EQ(out[4 * thread + 3], thirds);
  }
}

__global__ void wait_apart() {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __syncwarp();
}

TEST(Emulation, WaitsThatCannotEndThrow) {
  EXPECT_THROW(static_cast<void>(launch(1, 32, wait_apart)), std::logic_error);
}

TEST(Emulation, GeometriesThatAGpuRefusesAreRefused) {
  int value = 0;
  EXPECT_EQ(launch(1, 2048, number_threads, &value), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(0, 32, number_threads, &value), cudaErrorInvalidConfiguration);
}

}  // namespace
