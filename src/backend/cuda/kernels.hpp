// SPDX-License-Identifier: Apache-2.0
// Purpose: every kernel of the CUDA backend as a function that launches it on a stream. Shapes were checked
// by the op; rectangles without elements launch nothing. What a function writes to is named last. Reductions
// run in an order fixed by the shape; atomics are on integers only, where order does not matter. Non-goals:
// allocation, waiting.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <cuda_runtime_api.h>

#include "geometry.hpp"
#include "strided.hpp"
#include <cstdint>

namespace fedspallm::backend::cuda {

using Floats = Strided<float>;
using ConstFloats = Strided<const float>;
using Masks = Strided<std::uint8_t>;
using ConstMasks = Strided<const std::uint8_t>;

// copy.cu
void copy_elements(cudaStream_t stream, ConstFloats from, Floats to);
void copy_elements(cudaStream_t stream, ConstMasks from, Masks to);
void fill_elements(cudaStream_t stream, float value, Floats to);
void fill_elements(cudaStream_t stream, std::uint8_t value, Masks to);
/// Stored elements of f16 or bf16, contiguous, to fp32.
void widen_elements(cudaStream_t stream, DType type, const std::uint16_t* from, Floats to);
/// fp32 to f16 or bf16, contiguous.
void narrow_elements(cudaStream_t stream, DType type, ConstFloats from, std::uint16_t* to);
/// Every row of `to` = row + (add ? what is there : 0); row null: 0.
void start_rows(cudaStream_t stream, const float* row, bool add, Floats to);

// factor.cu: square matrices of the same size; reversed = rows and columns in opposite order.
/// to = lower triangle of the reversed `from`, whose upper triangle is given; 0 above the diagonal.
void reverse_to_lower(cudaStream_t stream, ConstFloats from, Floats to);
/// to = the reversed lower triangle of `from`: upper; 0 below the diagonal.
void reverse_to_upper(cudaStream_t stream, ConstFloats from, Floats to);
/// *first = the smallest i whose pivot lower_ii^2 does not exceed tolerance * h_jj, j = n - 1 - i, or
/// *info - 1 (cuSOLVER's) where that is smaller; n when all are good.
void first_bad_pivot(cudaStream_t stream, ConstFloats lower, ConstFloats h, float tolerance, const int* info,
                     unsigned long long* first);
/// Upper triangle (with diagonal) of `to` += from.
void add_upper(cudaStream_t stream, ConstFloats from, Floats to);

// model.cu
void norm_rows(cudaStream_t stream, Norm kind, ConstFloats x, const float* weight, const float* bias,
               float epsilon, Floats y);
void rotate(cudaStream_t stream, ConstFloats cosine, ConstFloats sine, std::int64_t heads, Floats x);
void silu_multiply(cudaStream_t stream, ConstFloats up, Floats gate);
void activate(cudaStream_t stream, Activation kind, Floats x);
void add_elements(cudaStream_t stream, ConstFloats x, Floats y);
void nll_of_rows(cudaStream_t stream, ConstFloats logits, const std::int32_t* targets, double* nll);
/// *first = the smallest row-major index of NaN or infinity, all bits set when there is none.
void first_non_finite(cudaStream_t stream, ConstFloats x, unsigned long long* first);
/// Softmax of rows of attention scores in place. Row r of `scores` belongs to query first_query + r % tile;
/// its column c to key first_key + c. Keys that the query does not see get 0.
struct AttentionTile {
  std::int64_t first_query, tile, first_key, window;
  float scale;
};
void softmax_rows(cudaStream_t stream, AttentionTile tile, Floats scores);
/// The weights as `type`, contiguous; the scores are used up.
void softmax_rows(cudaStream_t stream, AttentionTile tile, Floats scores, DType type, std::uint16_t* weights);

// prune.cu
void saliency_scores(cudaStream_t stream, ConstFloats w, const float* diagonal, Floats score);
void magnitude_scores(cudaStream_t stream, ConstFloats w, const float* factor, Floats score);
void prefer_dropped(cudaStream_t stream, ConstMasks previous, Floats score);
void keep_n_of_m(cudaStream_t stream, ConstFloats score, int keep, int m, Masks mask);
void apply_mask(cudaStream_t stream, ConstMasks mask, Floats w);
void round_elements(cudaStream_t stream, DType type, Floats w);
/// *sum += the squares. partial: one double for each unit of sum_units(x.size()).
void add_squares(cudaStream_t stream, ConstFloats x, double* partial, double* sum);

// sweep.cu
struct SweepGroups {
  int keep = 0, m = 0;  // m = 0: the mask is given
  ConstMasks previous;  // drops first; without data: none
};
/// One piece of a column block. @pre w.cols <= sweep_columns, w.cols % m == 0
void sweep(cudaStream_t stream, ConstFloats u, const SweepGroups& groups, Floats w, Masks mask, Floats error);

// selection.cu
/// What is known of the key that is looked for.
template <class Key>
struct RadixState {
  Key key;                       // its digits so far, the others 0
  unsigned long long remaining;  // its index among those that share these digits
  unsigned long long equal;      // how many have all of its digits
};
using SelectionState = RadixState<std::uint32_t>;
/// Device memory that a selection works in.
struct SelectionWorkspace {
  SelectionState* state;
  std::uint32_t* histogram;          // select_bins
  std::uint32_t* equal_of_unit;      // one for each unit
  unsigned long long* equal_before;  // of each unit
  [[nodiscard]] static SelectionWorkspace at(std::byte* memory, std::int64_t units);
  [[nodiscard]] static std::size_t bytes(std::int64_t units);
};
/// mask = 0 at the `index` + 1 smallest scores (ties: lowest row-major index first), or, `published`, at all
/// scores not above the one with this index; 1 elsewhere. @pre 0 <= index < score.size() < 2^32, no NaN
void select(cudaStream_t stream, ConstFloats score, std::int64_t index, bool published,
            const SelectionWorkspace& workspace, Masks mask);
/// Row r of mask = 0 at its counts[r] (device memory) smallest scores. @pre 0 <= counts[r] <= cols < 2^32
void select_in_rows(cudaStream_t stream, ConstFloats score, const std::int64_t* counts, Masks mask);

// sparse.cu. Bits are 32-bit words here: 64-bit ones in little-endian order.
/// bits and the set bits of each unit of pack_units(mask.size()). bits: 2 words for each 64 elements begun.
void pack_bits(cudaStream_t stream, ConstMasks mask, std::uint32_t* bits, std::uint32_t* kept_of_unit);
/// Set bits of each unit.
void count_bits(cudaStream_t stream, const std::uint32_t* bits, std::int64_t size,
                std::uint32_t* kept_of_unit);
/// starts[u] = sum of counts before u, starts[units] = all.
void exclusive_sum(cudaStream_t stream, const std::uint32_t* counts, std::int64_t units,
                   unsigned long long* starts);
/// values = the weights at set bits as `type`, those of unit u from starts[u] on.
void compress(cudaStream_t stream, ConstFloats w, const std::uint32_t* bits, const unsigned long long* starts,
              DType type, void* values);
/// w = values at the set bits, 0 elsewhere.
void expand(cudaStream_t stream, const std::uint32_t* bits, const unsigned long long* starts,
            const void* values, DType type, Floats w);
void bits_to_mask(cudaStream_t stream, const std::uint32_t* bits, Masks mask);

// updates.cu
/// What is found while values are looked at; starts at 0.
struct UpdateFacts {
  unsigned long long zeros;  // +-0
  unsigned largest;          // pattern of the largest |value|
  unsigned padding;          // a bit beyond the last weight is set
};
void look_at_values(cudaStream_t stream, const void* values, std::int64_t count, DType type,
                    UpdateFacts* facts);
/// tiles (of 64 weights: 64 sums, then 64 counts) += the values at set bits in multiples of 2^q.
/// @param kept  values there are
void accumulate(cudaStream_t stream, const std::uint32_t* bits, std::int64_t size,
                const unsigned long long* starts, const void* values, std::int64_t kept, DType type, int q,
                std::byte* tiles, UpdateFacts* facts);

// merge.cu: from sums to a merged matrix.
/// Merged weights, dense in device memory, and how ties among them are settled.
struct MergedWeights {
  std::int64_t size = 0, cols = 0;
  DType type = DType::f32;
  std::byte* elements = nullptr;  // of `type`
  int vote_width = 1;             // bytes
  std::byte* votes = nullptr;     // clients that dropped the weight
  std::uint32_t clients = 1;
  UpdateOps::Tie tie = UpdateOps::Tie::index;
  const std::int64_t* column_weights = nullptr;
};
/// Elements, votes; histogram[k] += weights that k clients kept, for all larger k in bin clients + 1.
/// @param divisor  0: of each weight the clients that kept it
void average(cudaStream_t stream, const std::byte* tiles, int q, std::uint32_t divisor,
             const MergedWeights& weights, unsigned long long* histogram);
using MergeState = RadixState<std::uint64_t>;
/// Where the weights that `level` clients kept are cut: the key of the one with index `rank` of `equal`.
/// @param histogram  select_bins
void find_cut(cudaStream_t stream, const MergedWeights& weights, std::uint32_t level, unsigned long long rank,
              unsigned long long equal, MergeState* state, std::uint32_t* histogram);
/// For each unit of pack_units(size) the weights that `level` clients kept and that have the cut's key; 0
/// where all of these go.
void count_cut(cudaStream_t stream, const MergedWeights& weights, std::uint32_t level,
               const MergeState* state, std::uint32_t* equal_of_unit);
/// bits = weights that more than `level` clients kept, and those of the level beyond the cut (state null:
/// none).
/// @param equal_before  of each unit, those of count_cut()
void mark(cudaStream_t stream, const MergedWeights& weights, std::uint32_t level, const MergeState* state,
          const unsigned long long* equal_before, std::uint32_t* bits, std::uint32_t* kept_of_unit);
/// What N:M groups lose; starts at 0.
struct GroupFacts {
  unsigned long long expanded;  // weights that went although somebody kept them
  unsigned above_target;        // 1: of some group fewer than `keep` were kept
  unsigned unused;
};
void mark_groups(cudaStream_t stream, const MergedWeights& weights, int keep, int group, std::uint32_t* bits,
                 std::uint32_t* kept_of_unit, GroupFacts* facts);
/// values = the elements at set bits.
void gather_elements(cudaStream_t stream, const MergedWeights& weights, const std::uint32_t* bits,
                     const unsigned long long* starts, std::byte* values);

}  // namespace fedspallm::backend::cuda
