// SPDX-License-Identifier: Apache-2.0
// Purpose: what every process may do with a folder of block files: read those that a list says count, and
// write further ones. Each (round, block) is its own file, written as .part, closed, fsynced and renamed; it
// counts once its entry is in the list, which one process keeps (run_store.hpp). So several processes write
// block files of one run, each its own, and no reader takes an unfinished or damaged one for good.
// Non-goals: the list itself, locks (run_lock.hpp).
#pragma once

#include "fedspallm/store/records.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fedspallm::store {

struct BlockEntry;
struct Manifest;

/// Votes are most of a block in memory (4 bytes a weight); who wants weights leaves them out.
enum class Votes : std::uint8_t { read, skip };

class BlockFiles {
 public:
  /// @param list  another process's list(), "" = no file counts. @throws DataError when it is none
  BlockFiles(std::filesystem::path folder, const std::string& list);
  ~BlockFiles();
  BlockFiles(BlockFiles&&) noexcept;
  BlockFiles& operator=(BlockFiles&&) noexcept;

  /// The files that count, with size and checksum, as text for other processes.
  [[nodiscard]] std::string list() const;
  /// Writes one block file, durable; makes the folder. The list stays as it is: until its keeper takes up the
  /// entry, the block counts as missing or, where the list has an earlier file of it, as damaged.
  /// @return the entry, as text
  /// @throws ResourceError. @pre pruned matrices agree with their counts; votes are empty or one per weight
  [[nodiscard]] std::string write_file(const BlockRecord& record) const;

  /// @throws DataError naming the file when missing, torn (another checksum than listed) or malformed.
  [[nodiscard]] BlockRecord read_block(std::uint32_t round, std::uint32_t block,
                                       Votes votes = Votes::read) const;
  /// The same without comparing counts with masks: `inspect` wants to see what the record claims.
  [[nodiscard]] BlockRecord read_block_as_recorded(std::uint32_t round, std::uint32_t block,
                                                   Votes votes = Votes::read) const;
  /// Whether the list has it; read_block() finds out whether the file is good.
  [[nodiscard]] bool has_block(std::uint32_t round, std::uint32_t block) const;
  /// Whether its file is there with the size that the list tells, without reading it.
  [[nodiscard]] bool has_file(std::uint32_t round, std::uint32_t block) const;
  /// (round, block) pairs in the list, ascending.
  [[nodiscard]] std::vector<std::pair<std::uint32_t, std::uint32_t>> blocks() const;
  /// The newest round in which `block` was written, nothing when it never was.
  [[nodiscard]] std::optional<std::uint32_t> newest_round(std::uint32_t block) const;
  /// The newest record of `block` over the rounds, nothing when it was never pruned.
  [[nodiscard]] std::optional<BlockRecord> newest(std::uint32_t block, Votes votes = Votes::read) const;
  [[nodiscard]] std::filesystem::path block_file(std::uint32_t round, std::uint32_t block) const;

 protected:
  /// @param list_name  for messages
  BlockFiles(std::filesystem::path folder, std::string list_name, std::unique_ptr<Manifest> manifest);
  /// @throws DataError where the list is damaged
  [[nodiscard]] const Manifest& sound_manifest() const;
  /// Writes the .part file of a record. @return the entry that it will have
  [[nodiscard]] BlockEntry write_part_of(const BlockRecord& record) const;
  /// Puts it in place of the file before.
  void publish(const BlockEntry& entry) const;

  std::filesystem::path folder_;
  std::string list_name_;
  std::unique_ptr<Manifest> manifest_;
  std::string damage_;  // of the list; "" = none
};

/// The merged block as bytes for clients of the next round, and back (checksummed; checked before use). What
/// a client needs travels: round, block and of each matrix name, pruned, shape, dtype, N:M, mask and values.
/// Votes, histogram, counts of the merge and other clients' statistics do not.
/// @pre pruned matrices agree with their counts
[[nodiscard]] std::vector<std::byte> encode_block(const BlockRecord& record);
/// @throws DataError: what was found, what was expected
[[nodiscard]] BlockRecord decode_block(std::span<const std::byte> bytes);

}  // namespace fedspallm::store
