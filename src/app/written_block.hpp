// SPDX-License-Identifier: Apache-2.0
// Purpose: what the writer of a block tells the root of it, as text that travels between ranks (some 300
// bytes a block). Non-goals: writing blocks (block_merger.hpp), what the root does then (root.hpp).
#pragma once

#include "fedspallm/store/state_store.hpp"

#include <cstdint>
#include <string>

namespace fedspallm::app {

/// What is known of a block when it is finished.
struct BlockSummary {
  std::uint32_t round = 1;
  std::int64_t block = 0;
  int rank = 0;              // that wrote it
  std::int64_t clients = 0;  // that pruned it
  std::int64_t weights = 0;
  std::int64_t dropped = 0;
  std::int64_t expanded = 0;
  double error = 0;       // mean over clients of the sum of squared scaled errors
  int damping_steps = 0;  // largest of any client
  bool above_target = false;
  bool recomputed = false;  // it was on disk already, equal
  double merge_seconds = 0;
  double write_seconds = 0;
  friend bool operator==(const BlockSummary&, const BlockSummary&) = default;
};

/// What the root is told of a block that its writer is done with.
struct WrittenBlock {
  BlockSummary summary;
  std::string entry;      // for store::BlockStore::list_block; "" = no new file
  std::string uncovered;  // name of a matrix that none of its clients delivered; "" = there is none
  friend bool operator==(const WrittenBlock&, const WrittenBlock&) = default;
};

[[nodiscard]] std::string to_text(const WrittenBlock& block);
/// @param expected  the block that the writer was to write
/// @throws DataError for text that is none, or of another block. Of what it returns no count is negative,
/// dropped and expanded are at most weights, and clients * weights < 2^63.
[[nodiscard]] WrittenBlock written_block_from_text(const std::string& text, store::Position expected);

}  // namespace fedspallm::app
