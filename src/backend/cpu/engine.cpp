// SPDX-License-Identifier: Apache-2.0
#include "engine.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/rounding.hpp"

namespace fedspallm::backend::cpu {

Kernels select_kernels(Isa isa) {
  require(supported(isa), "an instruction set that this CPU supports");
#if defined(__x86_64__)
  if (isa == Isa::avx512)
    return {avx512::model_kernels(),  avx512::attention_kernels(), avx512::gram_kernels(),
            avx512::linear_kernels(), avx512::prune_kernels(),     avx512::sparse_kernels()};
  if (isa == Isa::avx2)
    return {avx2::model_kernels(),  avx2::attention_kernels(), avx2::gram_kernels(),
            avx2::linear_kernels(), avx2::prune_kernels(),     avx2::sparse_kernels()};
#endif
  return {baseline::model_kernels(),  baseline::attention_kernels(), baseline::gram_kernels(),
          baseline::linear_kernels(), baseline::prune_kernels(),     baseline::sparse_kernels()};
}

ProductKernels select_product_kernels(Products products, const Kernels& kernels) {
#if defined(__x86_64__)
  if (products == Products::bf16) return avx512bf16::product_kernels();
#endif
  require(products == Products::f32, "products that this CPU has");
  return {1, nullptr, kernels.gram, kernels.linear, kernels.attention};
}

void* Workspace::bytes(std::size_t wanted) {
  if (wanted > size_) {
    memory_.release(data_);  // first, so that old and new are never there together
    data_ = nullptr;
    size_ = 0;
    data_ = memory_.allocate(wanted);
    size_ = wanted;
  }
  return data_;
}

Cut even_cut(std::int64_t length, std::int64_t largest, std::int64_t granule) {
  const std::int64_t pieces = std::max<std::int64_t>(1, divide_up(length, largest));
  const std::int64_t even = divide_up(length, pieces);
  return {length, std::max<std::int64_t>(1, round_up(even, granule))};
}

Engine::Engine(int threads, Isa wanted)
    : isa(wanted), kernels(select_kernels(wanted)), shared(memory), pool_(threads) {
  for (int worker = 0; worker < threads; ++worker) per_worker_.push_back(std::make_unique<Workspace>(memory));
  per_worker_floats_.resize(per_worker_.size());
}

void Engine::run(std::int64_t units, const std::function<void(std::int64_t, int)>& body) {
  pool_.run(units, [&](std::int64_t unit, int worker) {
    blas.single_threaded();
    body(unit, worker);
  });
}

void Engine::reserve_per_worker(std::int64_t count) {
  for (std::size_t worker = 0; worker < per_worker_.size(); ++worker)
    per_worker_floats_[worker] = per_worker_[worker]->elements<float>(count);
}

}  // namespace fedspallm::backend::cpu
