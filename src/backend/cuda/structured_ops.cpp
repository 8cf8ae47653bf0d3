// SPDX-License-Identifier: Apache-2.0
// Products with 2:4 matrices by cuSPARSELt. A row-major n x in matrix is by columns its in x n transpose:
// y^T = (w^T)^T x^T, all by columns, the structured operand first.
#include "fedspallm/backend/structured.hpp"
#include "fedspallm/base/error.hpp"

#include "csr_ops.hpp"
#include "kernels.hpp"
#include "structured_api.hpp"
#include <algorithm>

namespace fedspallm::backend {

namespace cuda {
namespace {

constexpr std::int64_t multiple = 32;     // of every dimension; what all kernels of the library take
constexpr std::uint32_t alignment = 256;  // of the pool's memory

/// One of the library's objects, a struct that the caller holds.
template <class Thing>
class Held {
 public:
  using Destroy = cusparseStatus_t (*)(const Thing*);
  Held() = default;
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    if (destroy_ != nullptr) static_cast<void>(destroy_(&thing_));
  }
  [[nodiscard]] Thing* get() { return &thing_; }
  /// From now on: it has been made.
  void destroyed_by(Destroy destroy) { destroy_ = destroy; }

 private:
  Thing thing_{};
  Destroy destroy_ = nullptr;
};

class Product final : public StructuredProduct {
 public:
  Product(const StructuredApi& api, Engine& engine, Products products, const View& x, const View& w)
      : api_(api),
        engine_(engine),
        type_(products == Products::bf16 ? DType::bf16 : DType::f16),
        n_(x.rows()),
        out_(w.rows()),
        x_(engine.memory),
        y_(engine.memory),
        compressed_(engine.memory),
        workspace_(engine.memory) {
    narrow_elements(engine_.stream(), type_, device_floats(x), x_.elements<std::uint16_t>(x.size()));
    check_cuda(cudaMemsetAsync(y_.bytes(y_bytes()), 0, y_bytes(), engine_.stream()), "cudaMemsetAsync");
    describe(x.cols());
    take(w);
    // The library tries what it has and keeps the fastest.
    cudaStream_t stream = engine_.stream();
    check_cusparse(api_.search(handle_.get(), plan_.get(), &one_, compressed_.bytes(1), x_.bytes(1), &zero_,
                               y_.bytes(1), y_.bytes(1), workspace_.bytes(1), &stream, 1),
                   "cusparseLtMatmulSearch");
    reserve_workspace();  // the chosen one's (split sums, say) may be larger than the first one's
  }
  ~Product() override { static_cast<void>(cudaStreamSynchronize(engine_.own_stream())); }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  void run() override {
    cudaStream_t stream = engine_.stream();
    check_cusparse(api_.multiply(handle_.get(), plan_.get(), &one_, compressed_.bytes(1), x_.bytes(1), &zero_,
                                 y_.bytes(1), y_.bytes(1), workspace_.bytes(1), &stream, 1),
                   "cusparseLtMatmul");
  }
  void result(View y) override {
    require(y.rows() == n_ && y.cols() == out_,
            "result of a structured product: a row for each of x, a "
            "column for each row of w");
    widen_elements(engine_.stream(), type_, y_.elements<std::uint16_t>(1), device_floats(y));
  }
  [[nodiscard]] std::string name() const override {
    int patch = 0;
    static_cast<void>(api_.get_property(PATCH_LEVEL, &patch));
    return fmt::format("cusparselt {}.{}.{} {}", CUSPARSELT_VER_MAJOR, CUSPARSELT_VER_MINOR, patch,
                       name_of(type_));
  }

 private:
  [[nodiscard]] std::size_t y_bytes() const { return static_cast<std::size_t>(n_ * out_) * 2; }

  void describe(std::int64_t in) {
    const cudaDataType type = type_ == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
    check_cusparse(api_.init(handle_.get()), "cusparseLtInit");
    handle_.destroyed_by(api_.destroy);
    check_cusparse(api_.describe_structured(handle_.get(), left_.get(), in, out_, in, alignment, type,
                                            CUSPARSE_ORDER_COL, CUSPARSELT_SPARSITY_50_PERCENT),
                   "cusparseLtStructuredDescriptorInit");
    left_.destroyed_by(api_.destroy_matrix);
    check_cusparse(
        api_.describe_dense(handle_.get(), right_.get(), in, n_, in, alignment, type, CUSPARSE_ORDER_COL),
        "cusparseLtDenseDescriptorInit");
    right_.destroyed_by(api_.destroy_matrix);
    check_cusparse(api_.describe_dense(handle_.get(), result_.get(), out_, n_, out_, alignment, type,
                                       CUSPARSE_ORDER_COL),
                   "cusparseLtDenseDescriptorInit");
    result_.destroyed_by(api_.destroy_matrix);
    check_cusparse(api_.describe_product(handle_.get(), &product_, CUSPARSE_OPERATION_TRANSPOSE,
                                         CUSPARSE_OPERATION_NON_TRANSPOSE, left_.get(), right_.get(),
                                         result_.get(), result_.get(), CUSPARSE_COMPUTE_32F),
                   "cusparseLtMatmulDescriptorInit");
    check_cusparse(api_.choose(handle_.get(), &choice_, &product_, CUSPARSELT_MATMUL_ALG_DEFAULT),
                   "cusparseLtMatmulAlgSelectionInit");
    check_cusparse(api_.make_plan(handle_.get(), plan_.get(), &product_, &choice_),
                   "cusparseLtMatmulPlanInit");
    plan_.destroyed_by(api_.destroy_plan);
    reserve_workspace();
  }

  /// What the plan's kernel needs now.
  void reserve_workspace() {
    std::size_t bytes = 0;
    check_cusparse(api_.workspace_bytes(handle_.get(), plan_.get(), &bytes), "cusparseLtMatmulGetWorkspace");
    static_cast<void>(workspace_.bytes(std::max<std::size_t>(bytes, 1)));
  }

  /// Checks the pattern and stores w as the library wants it.
  void take(const View& w) {
    Workspace dense(engine_.memory), buffer(engine_.memory), answer(engine_.memory);
    auto* narrow = dense.elements<std::uint16_t>(w.size());
    narrow_elements(engine_.stream(), type_, device_floats(w), narrow);
    int* wrong = answer.elements<int>(1);
    check_cusparse(api_.check_pattern(handle_.get(), &product_, narrow, wrong, engine_.stream()),
                   "cusparseLtSpMMAPruneCheck");
    require(engine_.read(wrong) == 0, "a structured product: at most two of every four weights are not 0");
    std::size_t bytes = 0, scratch = 0;
    check_cusparse(api_.compressed_bytes(handle_.get(), plan_.get(), &bytes, &scratch),
                   "cusparseLtSpMMACompressedSize");
    check_cusparse(
        api_.compress(handle_.get(), plan_.get(), narrow, compressed_.bytes(std::max<std::size_t>(bytes, 1)),
                      buffer.bytes(std::max<std::size_t>(scratch, 1)), engine_.stream()),
        "cusparseLtSpMMACompress");
    engine_.synchronize();  // the dense copy goes
  }

  const StructuredApi& api_;
  Engine& engine_;
  DType type_;
  std::int64_t n_, out_;
  Workspace x_, y_, compressed_, workspace_;
  float one_ = 1, zero_ = 0;
  Held<cusparseLtHandle_t> handle_;
  Held<cusparseLtMatDescriptor_t> left_, right_, result_;
  cusparseLtMatmulDescriptor_t product_{};
  cusparseLtMatmulAlgSelection_t choice_{};
  Held<cusparseLtMatmulPlan_t> plan_;
};

}  // namespace
}  // namespace cuda

StructuredChoice make_structured_product(Backend& backend, View x, View w) {
  auto* csr = dynamic_cast<cuda::CudaCsr*>(&backend.csr());  // whose engine it shares
  if (csr == nullptr) return {nullptr, "no such product on the backend " + backend.name()};
  require(x.cols() == w.cols(), "a structured product: x and w of as many columns");
  for (const std::int64_t size : {x.rows(), x.cols(), w.rows()})
    if (size == 0 || size % cuda::multiple != 0)
      return {nullptr, fmt::format("{} is no multiple of {}", size, cuda::multiple)};
  StructuredChoice choice;
  if (const cuda::StructuredApi* api = cuda::structured_api(choice.lacks))
    choice.product = std::make_unique<cuda::Product>(*api, csr->engine(), backend.products(), x, w);
  return choice;
}

}  // namespace fedspallm::backend
