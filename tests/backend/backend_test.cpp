// SPDX-License-Identifier: Apache-2.0
// Tensors, views, copies, memory accounting and the factory, for the reference and the CPU backend alike.
#include "fedspallm/backend/backend.hpp"

#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../../src/backend/access.hpp"
#include <cstdint>
#include <limits>

namespace fedspallm::test {
namespace {

using backend::Access;
using backend::Backend;
using backend::Element;
using backend::Tensor;
using backend::View;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;
using testing::ThrowsMessage;

class AnyBackend : public testing::TestWithParam<bool> {
 protected:
  AnyBackend() : backend_(GetParam() ? backend::make_cpu_backend(2) : backend::make_reference_backend()) {}
  std::vector<float> values(const View& view) {
    std::vector<float> result(static_cast<std::size_t>(view.size()));
    backend_->copy_out(view, std::span<float>(result));
    return result;
  }
  std::unique_ptr<Backend> backend_;
};

TEST_P(AnyBackend, TensorsAreAlignedCountedAndGivenBack) {
  EXPECT_EQ(backend_->allocated_bytes(), 0);
  {
    const Tensor small = backend_->allocate(3, 5);
    EXPECT_EQ(backend_->allocated_bytes(), 60);
    const Tensor large = backend_->allocate(1500, 1000);
    EXPECT_EQ(backend_->allocated_bytes(), 60 + 6000000);
    const Tensor mask = backend_->allocate(3, 5, Element::u8);
    EXPECT_EQ(backend_->allocated_bytes(), 60 + 6000000 + 15);
    for (const Tensor* tensor : {&small, &large, &mask})
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(Access::data(tensor->view())) % 64, 0U);
  }
  EXPECT_EQ(backend_->allocated_bytes(), 0);
  EXPECT_EQ(backend_->peak_bytes(), 60 + 6000000 + 15);
}

TEST_P(AnyBackend, EmptyTensorsHaveShapesAndNoMemory) {
  const Tensor empty = backend_->allocate(0, 7);
  EXPECT_EQ(backend_->allocated_bytes(), 0);
  EXPECT_EQ(empty.cols(), 7);
  EXPECT_TRUE(empty.empty());
  EXPECT_EQ(values(empty.view().column_range(2, 3)).size(), 0U);
  EXPECT_TRUE(Tensor().empty());
}

TEST_P(AnyBackend, MemoryThatCannotBeHadIsAResourceErrorThatNamesTheBytes) {
  EXPECT_THAT([&] { static_cast<void>(backend_->allocate(std::int64_t{1} << 24, std::int64_t{1} << 24)); },
              ThrowsMessage<ResourceError>(HasSubstr("1125899906842624 bytes")));
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  EXPECT_THROW(static_cast<void>(backend_->allocate(huge, huge)), ResourceError);
  EXPECT_THROW(static_cast<void>(backend_->allocate(-1, 1)), LogicError);
  EXPECT_EQ(backend_->allocated_bytes(), 0);
}

TEST_P(AnyBackend, ViewsAreWindowsOnTheSameElements) {
  const Tensor tensor = backend_->allocate(3, 4);
  const std::vector<float> numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  backend_->copy_in(std::span<const float>(numbers), tensor);
  const View window = tensor.view().row_range(1, 2).column_range(1, 2);
  EXPECT_THAT(values(window), ElementsAre(5, 6, 9, 10));
  EXPECT_FALSE(window.contiguous());
  backend_->fill(window, -1.0F);
  EXPECT_THAT(values(tensor), ElementsAre(0, 1, 2, 3, 4, -1, -1, 7, 8, -1, -1, 11));
  EXPECT_THAT(values(tensor.view().reshaped(2, 6).row_range(1, 1)), ElementsAre(-1, 7, 8, -1, -1, 11));
  EXPECT_EQ(values(tensor.view().row_range(3, 0)).size(), 0U);
}

TEST_P(AnyBackend, ViewsOutsideTheirTensorAreRefused) {
  const Tensor tensor = backend_->allocate(3, 4);
  const View view = tensor;
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  EXPECT_THROW(static_cast<void>(view.row_range(2, 2)), LogicError);
  EXPECT_THROW(static_cast<void>(view.row_range(-1, 2)), LogicError);
  EXPECT_THROW(static_cast<void>(view.row_range(1, huge)), LogicError);
  EXPECT_THROW(static_cast<void>(view.row_range(huge, 1)), LogicError);
  EXPECT_THROW(static_cast<void>(view.column_range(4, 1)), LogicError);
  EXPECT_THROW(static_cast<void>(view.column_range(0, -1)), LogicError);
  EXPECT_THROW(static_cast<void>(view.reshaped(2, 5)), LogicError);
  EXPECT_THROW(static_cast<void>(view.reshaped(-3, -4)), LogicError);
  EXPECT_THROW(static_cast<void>(view.column_range(0, 2).reshaped(2, 3)), LogicError);
}

TEST_P(AnyBackend, MovedTensorsKeepTheirMemory) {
  Tensor first = backend_->allocate(1, 2);
  backend_->fill(first, 3.0F);
  Tensor second = std::move(first);
  EXPECT_THAT(values(second), ElementsAre(3, 3));
  second = backend_->allocate(1, 1);
  EXPECT_EQ(backend_->allocated_bytes(), 4);
}

TEST_P(AnyBackend, KernelSetNamesWhatBitsDependOn) {
  if (GetParam()) {
    EXPECT_THAT(backend_->kernel_set(),
                StartsWith("cpu/" + std::string(name_of(select_isa())) + "/openblas-"));
    EXPECT_EQ(backend_->name(), "cpu");
  } else {
    EXPECT_EQ(backend_->kernel_set(), "reference");
    EXPECT_EQ(backend_->name(), "reference");
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, AnyBackend, testing::Bool(),
                         [](const auto& backend) { return backend.param ? "cpu" : "reference"; });

TEST(Factory, CudaIsRefusedWithWhatToDo) {
  const backend::CudaDevices visible = backend::visible_cuda_devices();
  if (!visible.devices.empty()) GTEST_SKIP() << "there is a GPU";
  const auto make = [] { static_cast<void>(backend::make_cuda_backend(0)); };
  if (visible.reason.find("this build has no CUDA") != std::string::npos) {
    EXPECT_THAT(make, ThrowsMessage<NotCompiled>(HasSubstr("preset `cuda`")));
  } else {
    EXPECT_THAT(make, ThrowsMessage<ConfigError>(HasSubstr("backend = \"cpu\"")));
  }
}

TEST(Factory, ThreadsMustBePositive) {
  EXPECT_THROW(static_cast<void>(backend::make_cpu_backend(0)), LogicError);
}

TEST(Factory, OpenBlasRunsKernelsOfTheCpusClass) {
  if (!supported(Isa::avx2)) GTEST_SKIP() << "an old CPU has nothing better than old kernels";
  const std::string set = backend::make_cpu_backend(1)->kernel_set();
  for (const char* old : {"Prescott", "Core2", "Nehalem", "Sandybridge"})
    EXPECT_THAT(set, testing::Not(HasSubstr(old)));
}

}  // namespace
}  // namespace fedspallm::test
