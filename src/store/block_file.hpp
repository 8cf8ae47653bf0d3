// SPDX-License-Identifier: Apache-2.0
// Purpose: one BlockRecord as one HDF5 file, and back. Layout (docs in store/README of the run directory: any
// HDF5 reader can use it):
//   /            attributes format_version, kind = "fedspallm block", round, block, matrices
//   /NAME        one group per matrix, named by its tensor; attributes format_version, name, index, pruned,
//   rows, cols,
//                dtype, kept, target, expanded, common_zeros, kept_zeros, N, M
//     mask       uint8, ceil(rows * cols / 8): weight i (row-major) is bit i % 8 of byte i / 8; 1 = kept
//     values     the kept weights in row-major order: float32, or uint16 bit patterns when dtype is 16 bits
//     wide votes      uint8 | uint16 | uint32 [rows, cols]: clients that dropped the weight; absent where
//     nobody voted histogram  int64, clients + 1 bins of votes; absent likewise clients/   one 1-D dataset
//     per statistic, one element per client: client, kept, error, seconds, damping,
//                damping_steps, dead_columns, kept_zeros
// A matrix that nobody pruned has pruned = 0 and neither mask nor values.
// Non-goals: checksums, renaming, manifests (run_store.cpp); what the counts ought to be (inspect.cpp).
#pragma once

#include "fedspallm/store/records.hpp"

#include <filesystem>

namespace fedspallm::store {

/// Writes `path` itself (callers pass a .part name). @pre each pruned matrix is a sound packed matrix and its
/// votes are empty or one per weight. @throws ResourceError
void write_block_file(const std::filesystem::path& path, const BlockRecord& record);

/// Reads what is there, checking only what memory safety and meaning need: types, shapes, sizes. Counts may
/// disagree with the mask: `inspect` reports that, BlockStore refuses it. @throws DataError naming file and
/// object
[[nodiscard]] BlockRecord read_block_file(const std::filesystem::path& path);

}  // namespace fedspallm::store
