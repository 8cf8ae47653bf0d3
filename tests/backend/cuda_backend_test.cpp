// SPDX-License-Identifier: Apache-2.0
// What is the CUDA backend's own: memory, options, precision, wide sweeps, large selections. Built for a GPU
// and for the emulation, as cuda_parity_test.cpp is.
#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../../src/backend/access.hpp"
#include "agreement.hpp"
#include <cmath>
#include <cstdint>
#include <thread>

namespace fedspallm::test {
namespace {

using backend::Backend;
using backend::Element;
using backend::Products;
using backend::Tensor;
using backend::View;
using testing::HasSubstr;
using testing::ThrowsMessage;

class CudaBackendTest : public testing::Test {
 protected:
  static Tensor upload(Backend& backend, const std::vector<float>& values, std::int64_t rows) {
    Tensor tensor = backend.allocate(rows, static_cast<std::int64_t>(values.size()) / rows);
    backend.copy_in(std::span<const float>(values), tensor);
    return tensor;
  }
  static std::vector<float> download(Backend& backend, const View& view) {
    std::vector<float> values(static_cast<std::size_t>(view.size()));
    backend.copy_out(view, std::span<float>(values));
    return values;
  }
  std::unique_ptr<Backend> cuda_ = backend::make_cuda_backend(0);
};

TEST_F(CudaBackendTest, TensorsAreAlignedCountedAndGivenBack) {
  EXPECT_EQ(cuda_->allocated_bytes(), 0);
  {
    const Tensor small = cuda_->allocate(3, 5);
    const Tensor mask = cuda_->allocate(3, 5, Element::u8);
    EXPECT_EQ(cuda_->allocated_bytes(), 60 + 15);
    for (const Tensor* tensor : {&small, &mask})
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(backend::Access::data(tensor->view())) % 64, 0U);
  }
  EXPECT_EQ(cuda_->allocated_bytes(), 0);
  EXPECT_EQ(cuda_->peak_bytes(), 60 + 15);
}

TEST_F(CudaBackendTest, MemoryIsGivenBackByAThreadThatMadeNoCallBefore) {
  Tensor tensor = cuda_->allocate(3, 5);
  std::shared_ptr<std::byte> update = cuda_->updates().allocate(100);
  std::thread([&] {
    tensor = Tensor();
    update.reset();
  }).join();
  EXPECT_EQ(cuda_->allocated_bytes(), 0);
}

TEST_F(CudaBackendTest, WhatWasAskedForAheadIsWidenedFromTheDevice) {
  std::vector<std::vector<std::byte>> sources;
  for (const std::size_t weights : {std::size_t{35}, std::size_t{5000}})
    for (const DType dtype : {DType::f16, DType::bf16, DType::f32}) {
      const std::vector<float> values =
          uniform(5, static_cast<std::uint32_t>(weights), static_cast<std::int64_t>(weights));
      sources.emplace_back(weights * size_of(dtype));
      narrow(dtype, values.data(), sources.back().data(), weights);
    }
  const auto widened = [&](std::size_t index) {
    const DType dtype = std::array{DType::f16, DType::bf16, DType::f32}[index % 3];
    const Tensor tensor =
        cuda_->allocate(5, static_cast<std::int64_t>(sources[index].size() / size_of(dtype)) / 5);
    cuda_->copy_in_widened(dtype, sources[index], tensor);
    return download(*cuda_, tensor);
  };
  std::vector<std::vector<float>> expected;
  for (std::size_t i = 0; i < sources.size(); ++i) expected.push_back(widened(i));
  const std::int64_t before = cuda_->allocated_bytes();
  const std::vector<std::span<const std::byte>> first(sources.begin(), sources.begin() + 3),
      second(sources.begin() + 3, sources.end());
  cuda_->prefetch(first);
  cuda_->prefetch(second);
  for (int client = 0; client < 2; ++client)
    for (std::size_t i = 0; i < sources.size(); ++i) EXPECT_EQ(widened(i), expected[i]) << i;
  std::int64_t bytes = 0;
  for (const auto& source : sources) bytes += static_cast<std::int64_t>(source.size());
  EXPECT_EQ(cuda_->allocated_bytes() - before, bytes) << "they are on the device";
  cuda_->prefetch({});
  EXPECT_EQ(cuda_->allocated_bytes() - before, bytes - 35 * (2 + 2 + 4)) << "the oldest are forgotten";
  for (std::size_t i = 0; i < sources.size(); ++i) EXPECT_EQ(widened(i), expected[i]) << i;
  cuda_->prefetch({});
  EXPECT_EQ(cuda_->allocated_bytes(), before);
}

TEST_F(CudaBackendTest, ThatNothingFitsAheadIsNoError) {
  const std::vector<std::byte> small(40, std::byte{1});
  // Longer than any memory: only its address and size are looked at before it fails.
  const std::vector<std::span<const std::byte>> sources = {
      small, {reinterpret_cast<const std::byte*>(std::uintptr_t{4096}), std::size_t{1} << 45}};
  cuda_->prefetch(sources);
  const Tensor tensor = cuda_->allocate(2, 5);
  cuda_->copy_in_widened(DType::f32, small, tensor);
  cuda_->prefetch({});
  EXPECT_EQ(download(*cuda_, tensor).size(), 10U);
}

TEST_F(CudaBackendTest, HostMemoryOfItsOwnComesAndGoesInStreamOrder) {
  const std::shared_ptr<float> host = cuda_->allocate_host(6);
  const Tensor from = upload(*cuda_, {1, 2, 3, 4, 5, 6}, 2), to = cuda_->allocate(3, 2);
  cuda_->store(from, host.get());
  cuda_->fill(from, 0.0F);
  cuda_->restore(host.get(), to);
  EXPECT_THAT(download(*cuda_, to), testing::ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THROW(cuda_->store(to.view().column_range(0, 1), host.get()), LogicError);
  EXPECT_THROW(cuda_->restore(host.get(), to.view().column_range(0, 1)), LogicError);
}

TEST_F(CudaBackendTest, MemoryThatCannotBeHadIsAResourceErrorWithNumbers) {
  EXPECT_THAT([&] { static_cast<void>(cuda_->allocate(std::int64_t{1} << 24, std::int64_t{1} << 24)); },
              ThrowsMessage<ResourceError>(
                  testing::AllOf(HasSubstr("1125899906842624 bytes"), HasSubstr("are free"))));
  EXPECT_EQ(cuda_->allocated_bytes(), 0);
  const Tensor after = upload(*cuda_, {1.0F, 2.0F}, 1);  // the backend goes on
  EXPECT_THAT(download(*cuda_, after), testing::ElementsAre(1.0F, 2.0F));
}

TEST_F(CudaBackendTest, DevicesThatAreNotThereAreRefused) {
  EXPECT_THAT([] { static_cast<void>(backend::make_cuda_backend(1000)); },
              ThrowsMessage<ConfigError>(HasSubstr("device 1000")));
  EXPECT_THROW(static_cast<void>(backend::make_cuda_backend(-1)), ConfigError);
}

TEST_F(CudaBackendTest, TheKernelSetNamesTheDeviceAndThePrecision) {
  EXPECT_EQ(cuda_->name(), "cuda");
  EXPECT_THAT(cuda_->kernel_set(),
              testing::AllOf(testing::StartsWith("cuda/"), HasSubstr("/sm_"), testing::EndsWith("/f32")));
  const auto half = backend::make_cuda_backend({.device = 0, .products = Products::bf16});
  EXPECT_THAT(half->kernel_set(), testing::EndsWith("/bf16"));
}

TEST_F(CudaBackendTest, VisibleDevicesHaveNamesAndUuids) {
  for (const backend::CudaDevice& device : backend::visible_cuda_devices().devices) {
    EXPECT_FALSE(device.name.empty());
    EXPECT_THAT(device.uuid, testing::MatchesRegex("GPU-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+"));
    EXPECT_GT(device.memory_bytes, 0);
  }
}

TEST_F(CudaBackendTest, TheRuntimeTellsItsVersion) {
  EXPECT_THAT(backend::cuda_runtime_version(), testing::MatchesRegex("[0-9]+\\.[0-9]"));
}

/// Rows of ones, and of ones with a last bit that TF32 and 16-bit types do not have.
TEST_F(CudaBackendTest, ProductsAreNotRoundedToTf32) {
  const float fine = 1.0F + 0x1p-20F;
  const Tensor x = upload(*cuda_, std::vector<float>(64 * 64, fine), 64);
  const Tensor w = upload(*cuda_, std::vector<float>(64 * 64, 1.0F), 64);
  const Tensor y = cuda_->allocate(64, 64);
  cuda_->linear().linear(x, w, View(), y, false);
  for (const float value : download(*cuda_, y)) ASSERT_EQ(value, 64.0F * fine);
  const Tensor h = cuda_->allocate(64, 64);
  cuda_->fill(h, 0.0F);
  cuda_->linear().gram(x, 1.0F, h);
  EXPECT_NEAR(download(*cuda_, h)[1], 64.0 * fine * fine, 64 * 0x1p-22);
}

TEST_F(CudaBackendTest, TheFactorizationNamesTheFirstBadColumnAsTheReferenceDoes) {
  const auto reference = backend::make_reference_backend();
  // Positive definite but for one column, whose pivot is 0, negative or rounding noise.
  for (const std::int64_t bad : {std::int64_t{0}, std::int64_t{3}, std::int64_t{39}})
    for (const float pivot : {0.0F, -1.0F, 0x1p-26F, std::nanf("")}) {
      std::vector<float> h(40 * 40, 0.0F);
      for (std::size_t i = 0; i < 40; ++i) h[i * 41] = 2.0F;
      h[static_cast<std::size_t>(bad) * 41] = pivot == 0x1p-26F && bad < 39 ? 0.5F + pivot : pivot;
      if (bad < 39)
        h[static_cast<std::size_t>(bad) * 40 + 39] = pivot == 0x1p-26F ? 1.0F : 0.0F;  // 0.5 + pivot - 1/2
      const Tensor device = upload(*cuda_, h, 40), plain = upload(*reference, h, 40);
      EXPECT_EQ(cuda_->linear().inverse_upper_factor(device), reference->linear().inverse_upper_factor(plain))
          << bad << " " << pivot;
    }
}

TEST_F(CudaBackendTest, ColumnBlocksWiderThanASweepGoInPieces) {
  for (const char* op : {"obs_block", "obs_block_n_of_m", "obs_block_n_of_m:previous"}) {
    Case item{op, {37, 390}, 5, true};
    if (item.op != "obs_block") item.sizes.insert(item.sizes.end(), {3, 5});
    const auto reference = backend::make_reference_backend();
    expect_agreement(item, run_case(*cuda_, item), run_case(*reference, item));
  }
}

TEST_F(CudaBackendTest, SelectionsOfManyUnitsRankTheirTies) {
  for (const std::int64_t count :
       {std::int64_t{1}, std::int64_t{4097}, std::int64_t{150000}, std::int64_t{299999}}) {
    const Case item{"select_smallest:ties", {300, 1000, count}, 3, true};
    const auto reference = backend::make_reference_backend();
    expect_agreement(item, run_case(*cuda_, item), run_case(*reference, item));
  }
}

TEST_F(CudaBackendTest, CopiesLongerThanTheStagingBuffersArrive) {
  const std::int64_t size = (std::int64_t{40} << 20) / 4 + 3;  // two and a half buffers of 16 MiB
  std::vector<float> values(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 16777213);
  const Tensor tensor = upload(*cuda_, values, 1);
  EXPECT_EQ(download(*cuda_, tensor), values);
}

TEST_F(CudaBackendTest, OperandsOfAnotherBackendAreRefused) {
  const auto another = backend::make_cuda_backend(0);
  const Tensor mine = cuda_->allocate(2, 2), other = another->allocate(2, 2);
  EXPECT_THAT([&] { cuda_->model().add(mine, other); },
              ThrowsMessage<LogicError>(HasSubstr("another backend")));
}

}  // namespace
}  // namespace fedspallm::test
