// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/store/block_files.hpp"

#include "fedspallm/base/error.hpp"

#include "block_file.hpp"
#include "file_io.hpp"
#include "manifest.hpp"
#include "packed_checks.hpp"
#include <algorithm>

namespace fedspallm::store {

BlockFiles::BlockFiles(std::filesystem::path folder, std::string list_name,
                       std::unique_ptr<Manifest> manifest)
    : folder_(std::move(folder)), list_name_(std::move(list_name)), manifest_(std::move(manifest)) {}

BlockFiles::BlockFiles(std::filesystem::path folder, const std::string& list)
    : BlockFiles(folder, fmt::format("the list of {}", folder.string()), std::make_unique<Manifest>()) {
  if (!list.empty()) *manifest_ = manifest_from_text(list, list_name_);
}

BlockFiles::~BlockFiles() = default;
BlockFiles::BlockFiles(BlockFiles&&) noexcept = default;
BlockFiles& BlockFiles::operator=(BlockFiles&&) noexcept = default;

const Manifest& BlockFiles::sound_manifest() const {
  check<DataError>(damage_.empty(), damage_);
  return *manifest_;
}

std::string BlockFiles::list() const {
  return to_text(sound_manifest());
}

std::filesystem::path BlockFiles::block_file(std::uint32_t round, std::uint32_t block) const {
  return folder_ / fmt::format("r{:02}-b{:04}.h5", round, block);
}

BlockEntry BlockFiles::write_part_of(const BlockRecord& record) const {
  make_folders(folder_);
  const std::filesystem::path path = block_file(record.round, record.block);
  const std::filesystem::path part = part_path(path);
  BlockEntry entry{record.round, record.block, {}};
  write_part(part, [&] {
    write_block_file(part, record);
    entry.stamp = stamp_of(part);
  });
  entry.stamp.file = path.filename().string();
  return entry;
}

void BlockFiles::publish(const BlockEntry& entry) const {
  const std::filesystem::path path = folder_ / entry.stamp.file;
  const std::filesystem::path part = part_path(path);
  write_part(part, [&] { publish_file(part, path); });
}

std::string BlockFiles::write_file(const BlockRecord& record) const {
  const BlockEntry entry = write_part_of(record);
  publish(entry);
  return to_text(entry);
}

BlockRecord BlockFiles::read_block_as_recorded(std::uint32_t round, std::uint32_t block, Votes votes) const {
  const BlockEntry* entry = sound_manifest().find(round, block);
  check<DataError>(entry != nullptr,
                   fmt::format("{}: holds no round {}, block {}", list_name_, round, block));
  const std::filesystem::path path = folder_ / entry->stamp.file;
  verify(path, entry->stamp);
  BlockRecord record = read_block_file(path, votes);
  check<DataError>(record.round == round && record.block == block,
                   fmt::format("{}: is of round {}, block {}, expected round {}, block {}", path.string(),
                               record.round, record.block, round, block));
  return record;
}

BlockRecord BlockFiles::read_block(std::uint32_t round, std::uint32_t block, Votes votes) const {
  BlockRecord record = read_block_as_recorded(round, block, votes);
  for (const MatrixRecord& matrix : record.matrices) {
    const std::string fault = matrix.pruned ? packing_fault(matrix.matrix) : "";
    check<DataError>(fault.empty(),
                     fmt::format("{}: {}: {}", block_file(round, block).string(), matrix.name, fault));
  }
  return record;
}

bool BlockFiles::has_block(std::uint32_t round, std::uint32_t block) const {
  return sound_manifest().find(round, block) != nullptr;
}

bool BlockFiles::has_file(std::uint32_t round, std::uint32_t block) const {
  const BlockEntry* entry = sound_manifest().find(round, block);
  if (entry == nullptr) return false;
  std::error_code error;
  const std::uintmax_t bytes = std::filesystem::file_size(folder_ / entry->stamp.file, error);
  return !error && bytes == entry->stamp.bytes;
}

std::vector<std::pair<std::uint32_t, std::uint32_t>> BlockFiles::blocks() const {
  std::vector<std::pair<std::uint32_t, std::uint32_t>> pairs;
  for (const BlockEntry& entry : sound_manifest().entries) pairs.emplace_back(entry.round, entry.block);
  return pairs;
}

std::optional<std::uint32_t> BlockFiles::newest_round(std::uint32_t block) const {
  std::optional<std::uint32_t> round;
  for (const BlockEntry& entry : sound_manifest().entries)
    if (entry.block == block) round = std::max(round.value_or(0), entry.round);
  return round;
}

std::optional<BlockRecord> BlockFiles::newest(std::uint32_t block, Votes votes) const {
  const std::optional<std::uint32_t> round = newest_round(block);
  if (!round) return std::nullopt;
  return read_block(*round, block, votes);
}

}  // namespace fedspallm::store
