// SPDX-License-Identifier: Apache-2.0
#include "mpi_handles.hpp"

#include "fedspallm/aggregate/merge.hpp"

#include "mpi_check.hpp"

namespace fedspallm::comm {

namespace {

using aggregate::Tile;

/// MPI's signature of a user operation: inout[i] = in[i] + inout[i].
extern "C" void fedspallm_add_tiles(void* in, void* inout, int* count, MPI_Datatype*) {
  const auto size = static_cast<std::size_t>(*count);
  aggregate::add_tiles({static_cast<const Tile*>(in), size}, {static_cast<Tile*>(inout), size});
}

}  // namespace

TileReduction::TileReduction() {
  check_mpi(MPI_Type_contiguous(static_cast<int>(sizeof(Tile)), MPI_BYTE, &type_), "MPI_Type_contiguous");
  check_mpi(MPI_Type_commit(&type_), "MPI_Type_commit");
  check_mpi(MPI_Op_create(&fedspallm_add_tiles, 1, &operation_), "MPI_Op_create");
}

TileReduction::~TileReduction() {
  if (operation_ != MPI_OP_NULL) MPI_Op_free(&operation_);
  if (type_ != MPI_DATATYPE_NULL) MPI_Type_free(&type_);
}

void TileReduction::add_tiles(std::span<std::byte> other, std::span<std::byte> sums) const {
  require(other.size() == sums.size() && sums.size() % sizeof(Tile) == 0,
          "add_tiles: equal sizes, whole tiles");
  const int count = checked_count(static_cast<std::int64_t>(sums.size() / sizeof(Tile)));
  check_mpi(MPI_Reduce_local(other.data(), sums.data(), count, type_, operation_), "MPI_Reduce_local");
}

void TileReduction::add_integers(std::span<std::byte> other, std::span<std::byte> sums) {
  require(other.size() == sums.size() && sums.size() % sizeof(std::int64_t) == 0,
          "add_integers: equal sizes, whole numbers");
  const int count = checked_count(static_cast<std::int64_t>(sums.size() / sizeof(std::int64_t)));
  check_mpi(MPI_Reduce_local(other.data(), sums.data(), count, MPI_INT64_T, MPI_SUM), "MPI_Reduce_local");
}

}  // namespace fedspallm::comm
