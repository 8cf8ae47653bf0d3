// SPDX-License-Identifier: Apache-2.0
// Purpose: one BlockRecord as one HDF5 file, and back. Any HDF5 reader can use it:
//   /           attributes format_version, kind = "fedspallm block", round, block, matrices
//   /NAME       a group per matrix, named by its tensor; attributes format_version, name, index, pruned,
//               rows, cols, dtype, kept, target, expanded, common_zeros, kept_zeros, N, M
//   NAME/mask   uint8, ceil(rows * cols / 8): weight i (row-major) is bit i % 8 of byte i / 8; 1 = kept
//   NAME/values the kept weights in row-major order: float32, or bit patterns in uint16 for 16-bit models
//   NAME/votes  uint8 | uint16 | uint32 [rows, cols]: how many clients dropped the weight; not always there
//   NAME/histogram   int64, clients + 1 bins of the votes; there when votes are
//   NAME/clients/    1-D datasets, one element per client: client, kept, error, seconds, damping,
//                    damping_steps, dead_columns, kept_zeros
// A matrix that nobody pruned has pruned = 0 and neither mask nor values; a client's file has no votes.
// Non-goals: checksums, renaming, manifests (run_store.cpp); what the counts ought to be (recount.cpp).
#pragma once

#include "fedspallm/store/block_files.hpp"
#include "fedspallm/store/records.hpp"

#include <filesystem>

namespace fedspallm::store {

/// Writes `path` itself (callers pass a .part name). @pre each pruned matrix is a sound packed matrix and its
/// votes are empty or one per weight. @throws ResourceError
void write_block_file(const std::filesystem::path& path, const BlockRecord& record);

/// Reads what is there, checking only what memory safety and meaning need: types, shapes, sizes. Counts may
/// disagree with the mask: `inspect` reports that, BlockStore refuses it. @throws DataError naming file and
/// object
[[nodiscard]] BlockRecord read_block_file(const std::filesystem::path& path, Votes votes = Votes::read);

}  // namespace fedspallm::store
