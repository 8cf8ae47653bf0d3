// SPDX-License-Identifier: Apache-2.0
// Purpose: our reduction operation as MPI objects: a tile of 64 weights as one MPI type, its sum as one
// MPI_Op, made commutative because integer sums are (rulings.md 22). Freed at the end of their life.
#pragma once

#include <mpi.h>

#include <cstddef>
#include <span>

namespace fedspallm::comm {

class TileReduction {
 public:
  TileReduction();
  ~TileReduction();
  TileReduction(const TileReduction&) = delete;
  TileReduction& operator=(const TileReduction&) = delete;

  /// sums += other, both arrays of aggregate::Tile as bytes. @pre equal sizes, whole tiles
  void add_tiles(std::span<std::byte> other, std::span<std::byte> sums) const;
  /// sums += other, arrays of int64 as bytes. @pre equal sizes, whole numbers
  static void add_integers(std::span<std::byte> other, std::span<std::byte> sums);

  [[nodiscard]] MPI_Datatype type() const { return type_; }
  [[nodiscard]] MPI_Op operation() const { return operation_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
  MPI_Op operation_ = MPI_OP_NULL;
};

}  // namespace fedspallm::comm
