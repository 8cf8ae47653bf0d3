// SPDX-License-Identifier: Apache-2.0
// Purpose: what the ops of the CPU backend share: threads, workspaces, BLAS, kernels. Work is cut into units
// by shape alone, so an op's bits do not depend on the number of threads. Non-goal: scheduling between ops.
#pragma once

#include "fedspallm/backend/backend.hpp"
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/rounding.hpp"
#include "fedspallm/base/thread_pool.hpp"

#include "../host_memory.hpp"
#include "blas.hpp"
#include "kernels.hpp"
#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace fedspallm::backend::cpu {

/// The kernel tables of one instruction set. @pre supported(isa)
[[nodiscard]] Kernels select_kernels(Isa isa);
/// Of f32 the set's own. @pre lacks_for(products, isa) is ""
[[nodiscard]] ProductKernels select_product_kernels(Products products, const Kernels& kernels);

/// Memory that only grows and is kept between ops, counted by HostMemory.
class Workspace {
 public:
  explicit Workspace(HostMemory& memory) : memory_(memory) {}
  ~Workspace() { memory_.release(data_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  /// At least `count` elements of T; contents undefined, invalid after the next call with more.
  template <class T>
  [[nodiscard]] T* elements(std::int64_t count) {
    return static_cast<T*>(bytes(static_cast<std::size_t>(std::max<std::int64_t>(count, 1)) * sizeof(T)));
  }

 private:
  [[nodiscard]] void* bytes(std::size_t wanted);
  HostMemory& memory_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// [first, last) of the pieces that a length is cut into.
struct Range {
  std::int64_t first = 0, last = 0;
  [[nodiscard]] std::int64_t size() const { return last - first; }
};

/// Cuts [0, length) into pieces of `piece` (the last one smaller).
struct Cut {
  std::int64_t length = 0, piece = 1;
  [[nodiscard]] std::int64_t count() const { return divide_up(length, piece); }
  [[nodiscard]] Range operator[](std::int64_t index) const {
    return {index * piece, std::min(length, (index + 1) * piece)};
  }
};
/// Pieces of equal size (a multiple of `granule`) not above `largest`.
[[nodiscard]] Cut even_cut(std::int64_t length, std::int64_t largest, std::int64_t granule);

class Engine {
 public:
  Engine(int threads, Isa isa);

  HostMemory memory;
  Blas blas;
  Isa isa;
  Kernels kernels;
  [[nodiscard]] ProductKernels product_kernels(Products products) const {
    return select_product_kernels(products, kernels);
  }

  [[nodiscard]] int threads() const { return pool_.size(); }
  /// body(unit, worker) for each unit; products inside run on one thread.
  void run(std::int64_t units, const std::function<void(std::int64_t unit, int worker)>& body);
  /// `count` floats for each worker, reserved before the units run so that repeated ops allocate nothing.
  void reserve_per_worker(std::int64_t count);
  [[nodiscard]] float* of_worker(int worker) { return per_worker_floats_[static_cast<std::size_t>(worker)]; }
  /// One workspace for all units of an op.
  Workspace shared;

  /// Calls body(row, column, count) over spans that cover a rows x cols rectangle, many per unit; a
  /// contiguous rectangle counts as one row. For elementwise ops.
  template <class Body>
  void for_spans(std::int64_t rows, std::int64_t cols, bool contiguous, Body body) {
    if (rows <= 0 || cols <= 0) return;
    if (contiguous) {
      cols *= rows;
      rows = 1;
    }
    const Cut columns{cols, span};
    const Cut row_groups{rows, std::max<std::int64_t>(1, span / cols)};
    run(row_groups.count() * columns.count(), [&](std::int64_t unit, int) {
      const Range row_range = row_groups[unit / columns.count()];
      const Range column_range = columns[unit % columns.count()];
      for (std::int64_t row = row_range.first; row < row_range.last; ++row)
        body(row, column_range.first, column_range.size());
    });
  }
  /// Calls body(row, worker) for each row, rows grouped into units by the row's length.
  template <class Body>
  void for_rows(std::int64_t rows, std::int64_t cols, Body body) {
    const Cut groups{rows, std::max<std::int64_t>(1, span / std::max<std::int64_t>(1, cols))};
    run(groups.count(), [&](std::int64_t unit, int worker) {
      const Range range = groups[unit];
      for (std::int64_t row = range.first; row < range.last; ++row) body(row, worker);
    });
  }

 private:
  static constexpr std::int64_t span = 16384;  // elements per unit: some microseconds of work, within L2

  ThreadPool pool_;
  std::vector<std::unique_ptr<Workspace>> per_worker_;
  std::vector<float*> per_worker_floats_;
};

}  // namespace fedspallm::backend::cpu
