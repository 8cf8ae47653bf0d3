// SPDX-License-Identifier: Apache-2.0
// Staging in pieces much smaller than the data: every length around the size of a buffer, and sources that
// change as soon as an upload returns.
#include <gtest/gtest.h>

#include "../../src/backend/cuda/staging.hpp"
#include <cstdint>
#include <numeric>
#include <vector>

namespace fedspallm::test {
namespace {

TEST(CudaStaging, DataOfAnyLengthArriveAndComeBack) {
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  const backend::cuda::Stream stream = backend::cuda::make_stream();
  backend::cuda::Staging staging(stream.get(), 16);
  for (std::size_t length = 0; length <= 70; ++length) {
    std::vector<std::uint8_t> source(length), device(length), back(length);
    std::iota(source.begin(), source.end(), std::uint8_t{1});
    const std::vector<std::uint8_t> expected = source;
    staging.upload(source.data(), length, device.data());  // emulated devices have host memory
    std::fill(source.begin(), source.end(), std::uint8_t{0});
    EXPECT_EQ(device, expected);
    staging.download(device.data(), length, back.data());
    EXPECT_EQ(back, expected);
  }
}

}  // namespace
}  // namespace fedspallm::test
