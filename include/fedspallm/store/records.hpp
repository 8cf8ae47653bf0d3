// SPDX-License-Identifier: Apache-2.0
// Purpose: what the run file holds, as plain structs. One BlockRecord = one file (rulings.md 18). Non-goals:
// reading and writing them (block_files.hpp, run_store.hpp), checks of their contents.
#pragma once

#include "fedspallm/wire/update.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace fedspallm::store {

constexpr int kFormatVersion = 1;

/// One client's part in a matrix.
struct ClientPart {
  std::uint32_t client = 0;
  std::int64_t kept = 0;
  wire::MatrixReport report;
};

/// One prunable matrix of a block after its merge (or of one client, in clients/NAME.h5).
struct MatrixRecord {
  std::string name;    // full tensor name
  bool pruned = true;  // false: nobody pruned it; it passes as its dense bytes and `matrix` is empty
  wire::PackedMatrix matrix;
  std::vector<std::uint32_t> votes;  // per weight, number of clients that dropped it; empty in clients' files
  std::vector<std::int64_t> histogram;  // clients + 1 bins of votes
  std::int64_t target = -1;             // asked number of dropped weights; -1: none asked (no mask expansion)
  std::int64_t common_zeros = 0;
  std::int64_t expanded = 0;
  std::int64_t kept_zeros = 0;
  int keep = 0, group = 0;  // N:M, 0 = unstructured
  std::vector<ClientPart> clients;
};

struct BlockRecord {
  std::uint32_t round = 1;
  std::uint32_t block = 0;
  std::vector<MatrixRecord> matrices;
};

/// What a run was: stored in run.h5 as attributes and strings, and shown by `inspect`.
struct Provenance {
  std::string config_toml;  // as resolved
  std::vector<std::pair<std::string, std::string>>
      entries;                            // "version", "git", "mpi", "kernel_set", "model_sha256", ...
  std::vector<std::string> clients;       // names by index
  std::vector<std::string> token_sha256;  // by client
  std::vector<std::string> warnings;
  int rounds = 1;
  std::int64_t blocks = 0;
  double sparsity = 0;
};

}  // namespace fedspallm::store
