// SPDX-License-Identifier: Apache-2.0
// Purpose: l0 aggregation (FedSpaLLM, arXiv 2410.14852, eq. 5) and mask expansion (eq. 6-7) of one matrix,
// exact: sums are integers (rulings.md 6), so any order, tree, rank count, thread count or transport gives
// the same bits. A merge is a partial state that can be merged with another one. Non-goals: MPI, choosing who
// takes part.
#pragma once

#include "fedspallm/aggregate/rules.hpp"
#include "fedspallm/aggregate/tile.hpp"
#include "fedspallm/wire/update.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace fedspallm {
class ThreadPool;
}

namespace fedspallm::aggregate {

/// Adds `from` to `into`, tile by tile. This is the body of our MPI_Op.
/// @pre from.size() == into.size(); the two do not overlap
void add_tiles(std::span<const Tile> from, std::span<Tile> into);

/// The fixed-point scale q = e + b - 56, 2^e >= largest, 2^b >= clients. Same on all ranks by construction.
struct FixedPoint {
  int q = 0;
  /// @pre largest is finite and >= 0, 1 <= clients < 2^24. largest == 0 gives a scale that represents 0.
  [[nodiscard]] static FixedPoint covering(float largest, std::int64_t clients);
  friend bool operator==(const FixedPoint&, const FixedPoint&) = default;
};

/// Integer multiple of 2^q nearest to value, halves away from zero. Exact whenever value is a multiple of
/// 2^q.
/// @pre value is finite, |value| <= 2^(q + 56)
[[nodiscard]] std::int64_t quantize(float value, FixedPoint scale);

/// Sums of one matrix over clients: 12 bytes a weight, whatever the number of clients.
class PartialMerge {
 public:
  /// @pre rows, cols >= 0. `diagonal_scale` serves the sums of diag(H).
  PartialMerge(std::int64_t rows, std::int64_t cols, FixedPoint scale, FixedPoint diagonal_scale);
  /// Sums that lie in somebody else's memory, as they are there; copies share it. It outlives them.
  /// @pre as many tiles and columns as the shape has
  PartialMerge(std::int64_t rows, std::int64_t cols, FixedPoint scale, FixedPoint diagonal_scale,
               std::span<Tile> tiles, std::span<std::int64_t> diagonal);

  /// Adds one client's matrix (its diag(H) goes to add_diagonal). One pass over the tiles.
  /// @pre same shape, mask and values agree; values representable: |v| <= 2^(q + 56 - b). A value above 2^(q
  /// + 56) is
  ///      refused only when it is met: the state is then good for nothing.
  void add(const wire::PackedMatrix& matrix, ThreadPool* pool = nullptr);
  /// Adds several clients' matrices in one pass over the tiles; the same bits as one by one, and faster.
  /// @pre as above for each; no null pointers
  void add(std::span<const wire::PackedMatrix* const> matrices, ThreadPool* pool = nullptr);
  /// @pre diagonal.size() == cols, values finite, >= 0 and representable
  void add_diagonal(std::span<const float> diagonal);
  /// Adds another partial state. @pre same shape and scales, not this one
  void add(const PartialMerge& other);

  [[nodiscard]] std::span<Tile> tiles() { return lent_tiles_.empty() ? std::span(tiles_) : lent_tiles_; }
  [[nodiscard]] std::span<const Tile> tiles() const {
    return lent_tiles_.empty() ? std::span(tiles_) : std::span<const Tile>(lent_tiles_);
  }
  [[nodiscard]] std::span<std::int64_t> diagonal_sums() {
    return lent_diagonal_.empty() ? std::span(diagonal_) : lent_diagonal_;
  }
  [[nodiscard]] std::span<const std::int64_t> diagonal_sums() const {
    return lent_diagonal_.empty() ? std::span(diagonal_) : std::span<const std::int64_t>(lent_diagonal_);
  }
  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t cols() const { return cols_; }
  [[nodiscard]] FixedPoint scale() const { return scale_; }
  [[nodiscard]] FixedPoint diagonal_scale() const { return diagonal_scale_; }

 private:
  std::int64_t rows_, cols_;
  FixedPoint scale_, diagonal_scale_;
  std::vector<Tile> tiles_;
  std::vector<std::int64_t> diagonal_;  // cols sums, multiples of 2^diagonal_scale.q
  std::span<Tile> lent_tiles_;          // in place of both where memory is lent
  std::span<std::int64_t> lent_diagonal_;
};

/// The result for one matrix.
struct MergedMatrix {
  wire::PackedMatrix matrix;            // after mask expansion; kept values rounded once to dtype
  std::vector<std::uint32_t> votes;     // per weight: number of clients that dropped it (before expansion)
  std::vector<std::int64_t> histogram;  // clients + 1 bins of votes
  std::int64_t common_zeros = 0;        // weights that every client dropped
  std::int64_t expanded = 0;            // weights dropped by mask expansion
  std::int64_t target = 0;              // ceil(s d), for N:M (M - N) * groups, or -1 without mask expansion
  bool above_target = false;  // more common zeros than the target (N:M: in some group); none was added there
  std::int64_t kept_zeros = 0;  // kept weights whose merged value is 0
};

/// W_g = the element of `dtype` nearest to the exact sum 2^q / n (ties to even, one rounding), n = clients
/// that kept the weight (l0) or all clients of this block (mean); then mask expansion. One client whose
/// sparsity is the target comes back as it was sent, save that -0 turns into +0 and that values below 2^-32
/// of the largest keep fewer bits.
/// Two passes over memory; beside the sums it holds at most about 8.6 bytes a weight for 16-bit elements
/// and 11.6 for f32 at a time, its result of about 5 to 6 included (tests/aggregate/memory_test.cpp).
/// @param clients  number of clients that pruned this block, 1 <= clients < 2^24
/// @param diagonal_sums  of this matrix' input group, cols values >= 0 (tie = score); may be empty for the
/// other rules
/// @pre no weight has more kept votes than clients; N:M: 0 < N <= M and cols a multiple of M; 0 <= sparsity
/// <= 1
[[nodiscard]] MergedMatrix finish(const PartialMerge& merge, std::int64_t clients, const MergeRules& rules,
                                  DType dtype, std::span<const std::int64_t> diagonal_sums,
                                  ThreadPool* pool = nullptr);

}  // namespace fedspallm::aggregate
