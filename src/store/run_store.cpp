// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/store/run_store.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/store/resume_file.hpp"

#include "checksum_hex.hpp"
#include "file_io.hpp"
#include "link_file.hpp"
#include "manifest.hpp"
#include <algorithm>
#include <cctype>
#include <system_error>
#include <utility>

namespace fedspallm::store {

namespace {

/// Moves `text` behind `letter` and at least `digits` digits.
bool skip_number(std::string_view& text, std::string_view letter, std::size_t digits) {
  if (!text.starts_with(letter)) return false;
  text.remove_prefix(letter.size());
  const std::size_t end = std::min(text.find_first_not_of("0123456789"), text.size());
  text.remove_prefix(end);
  return end >= digits;
}

/// Whether files of this name are block_file()s (finished or not).
bool is_block_name(std::string_view name) {
  return skip_number(name, "r", 2) && skip_number(name, "-b", 4) && (name == ".h5" || name == ".h5.part");
}

void remove_file(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::remove(path, error);
  check<ResourceError>(!error, fmt::format("{}: cannot be removed: {}", path.string(), error.message()));
}

bool is_there(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

}  // namespace

std::string client_file_name(const std::string& client_name) {
  require(!client_name.empty(), "a client has a name");
  std::string name;
  for (const char c : client_name) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain =
        std::isalnum(byte) != 0 || c == '-' || c == '_' || c == ' ' || (c == '.' && !name.empty());
    name += plain && byte < 128 ? std::string(1, c) : fmt::format("%{:02X}", byte);
  }
  return name;
}

BlockStore::BlockStore(std::filesystem::path link_file, std::filesystem::path folder,
                       std::filesystem::path manifest)
    : BlockFiles(std::move(folder), manifest.string(), std::make_unique<Manifest>()),
      link_file_(std::move(link_file)),
      manifest_path_(std::move(manifest)) {
  // A process that was killed while it replaced the manifest leaves the one before under its other name.
  const std::filesystem::path path = is_there(manifest_path_) ? manifest_path_ : previous_manifest();
  if (!is_there(path)) return;
  try {
    *manifest_ = read_manifest(path);
  } catch (const DataError& error) {
    damage_ = error.what();
  }
}

BlockStore BlockStore::of_run(const RunPaths& paths) {
  return {paths.run_file(), paths.blocks(), paths.manifest()};
}

BlockStore BlockStore::of_client(const RunPaths& paths, const std::string& client_name) {
  const std::string name = client_file_name(client_name);
  const std::filesystem::path folder = paths.clients() / name;
  return {paths.clients() / (name + ".h5"), folder, folder / "manifest.json"};
}

void BlockStore::clear() {
  // The manifest goes first: without it nothing else counts as written, wherever this is interrupted.
  remove_file(previous_manifest());
  remove_file(manifest_path_);
  remove_file(part_path(manifest_path_));
  remove_file(link_file_);
  remove_file(part_path(link_file_));
  *manifest_ = Manifest{};
  damage_.clear();
  if (!std::filesystem::is_directory(folder_)) return;
  std::vector<std::filesystem::path> ours;
  for (const auto& entry : std::filesystem::directory_iterator(folder_))
    if (is_block_name(entry.path().filename().string())) ours.push_back(entry.path());
  for (const std::filesystem::path& path : ours) remove_file(path);
}

std::filesystem::path BlockStore::previous_manifest() const {
  std::filesystem::path path = manifest_path_;
  return path.replace_extension(".previous.json");
}

/// The manifest before stays beside the new one, so that a damaged one costs one block and not the run.
void BlockStore::replace_manifest() {
  std::error_code error;
  std::filesystem::rename(manifest_path_, previous_manifest(), error);  // fails where there is none yet
  write_manifest(manifest_path_, *manifest_);
}

void BlockStore::remove_unfinished() {
  remove_file(part_path(manifest_path_));
  remove_file(part_path(link_file_));
  if (!std::filesystem::is_directory(folder_)) return;
  std::vector<std::filesystem::path> parts;
  for (const auto& entry : std::filesystem::directory_iterator(folder_))
    if (is_block_name(entry.path().filename().string()) && entry.path().extension() == ".part")
      parts.push_back(entry.path());
  for (const std::filesystem::path& path : parts) remove_file(path);
}

std::string BlockStore::recover() {
  remove_unfinished();
  if (damage_.empty()) return "";
  *manifest_ = read_manifest(previous_manifest());
  // At once: the next replace_manifest() would rename the damaged one over the only good one.
  write_manifest(manifest_path_, *manifest_);
  return fmt::format("{}; going back to {}", std::exchange(damage_, {}), previous_manifest().string());
}

void BlockStore::write_block(const BlockRecord& record) {
  check<DataError>(damage_.empty(), damage_);
  make_folders(folder_of(manifest_path_));
  const BlockEntry entry = write_part_of(record);
  if (manifest_->find(record.round, record.block) != nullptr) {
    // Between the two renames the manifest must not list a checksum that the file no longer has.
    manifest_->erase(record.round, record.block);
    replace_manifest();
  }
  publish(entry);
  manifest_->put(entry);
  replace_manifest();
}

void BlockStore::forget_from(std::uint32_t round, std::uint32_t block) {
  check<DataError>(damage_.empty(), damage_);
  std::vector<std::filesystem::path> files;
  for (const auto& [its_round, its_block] : blocks()) {
    if (std::pair(its_round, its_block) < std::pair(round, block)) continue;
    files.push_back(block_file(its_round, its_block));
    manifest_->erase(its_round, its_block);
  }
  if (files.empty()) return;
  // Twice: the manifest before, to which a damaged one falls back, must not list them either.
  replace_manifest();
  replace_manifest();
  for (const std::filesystem::path& path : files) remove_file(path);
}

void BlockStore::list_block(const std::string& text) {
  check<DataError>(damage_.empty(), damage_);
  const BlockEntry entry = entry_from_text(text);
  const std::string expected = block_file(entry.round, entry.block).filename().string();
  check<DataError>(entry.stamp.file == expected,
                   fmt::format("block {} of round {} in file '{}', expected '{}'", entry.block, entry.round,
                               entry.stamp.file, expected));
  make_folders(folder_of(manifest_path_));
  manifest_->put(entry);
  replace_manifest();
}

void BlockStore::write_links(const Provenance& provenance, bool complete) {
  check<DataError>(damage_.empty(), damage_);
  make_folders(folder_of(link_file_));
  make_folders(folder_of(manifest_path_));
  const auto base = std::filesystem::absolute(folder_of(link_file_)).lexically_normal();
  const auto relative = std::filesystem::absolute(folder_).lexically_normal().lexically_relative(base);
  std::vector<std::filesystem::path> targets;
  for (const BlockEntry& entry : manifest_->entries) targets.push_back(relative / entry.stamp.file);
  const std::filesystem::path part = part_path(link_file_);
  FileStamp stamp;
  write_part(part, [&] {
    write_link_file(part, {provenance, complete}, targets);
    stamp = stamp_of(part);
  });
  stamp.file = link_file_.filename().string();
  // Both the version on disk and the new one are good until the rename below is done.
  if (manifest_->links.size() > 1)
    manifest_->links.erase(manifest_->links.begin(), manifest_->links.end() - 1);
  manifest_->links.push_back(stamp);
  replace_manifest();
  write_part(part, [&] { publish_file(part, link_file_); });
}

void BlockStore::verify_link_file() const {
  const Manifest& manifest = sound_manifest();
  check<DataError>(is_there(link_file_), fmt::format("{}: no such file", link_file_.string()));
  check<DataError>(!manifest.links.empty(), fmt::format("{}: {} does not list it, so it cannot be trusted",
                                                        link_file_.string(), manifest_path_.string()));
  const FileStamp found = stamp_of(link_file_);
  const bool known = std::any_of(manifest.links.begin(), manifest.links.end(), [&](const FileStamp& stamp) {
    return stamp.bytes == found.bytes && stamp.checksum == found.checksum;
  });
  if (!known) verify(link_file_, manifest.links.back());  // throws with the numbers
}

Provenance BlockStore::read_provenance() const {
  verify_link_file();
  return read_link_file(link_file_).provenance;
}

bool BlockStore::complete() const {
  check<DataError>(damage_.empty(), damage_);
  if (!is_there(link_file_)) return false;
  verify_link_file();
  return read_link_file(link_file_).complete;
}

void check_client_is_of_run(const RunPaths& paths, const BlockStore& client) {
  const std::filesystem::path file = paths.dir / "resume.json";
  const std::optional<RunIdentity> identity = read_identity(file);
  if (!identity) return;  // a copy without it
  for (const auto& [name, value] : client.read_provenance().entries)
    check<DataError>(
        name != kRunIdEntry || value == to_hex(identity->run_id),
        fmt::format("{}: is of run {}, but {} is of run {}: an earlier run left it here; run this "
                    "one with run.keep_clients = true, or delete the file",
                    client.link_file().string(), value, file.string(), to_hex(identity->run_id)));
}

}  // namespace fedspallm::store
