// SPDX-License-Identifier: Apache-2.0
#include "manifest.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/model/json_text.hpp"
#include "fedspallm/store/json_fields.hpp"
#include "fedspallm/store/run_store.hpp"

#include <nlohmann/json.hpp>

#include "checksum_hex.hpp"
#include "file_io.hpp"
#include <algorithm>
#include <limits>
#include <span>
#include <tuple>

namespace fedspallm::store {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kLargestManifest = std::int64_t{256} << 20;

std::uint64_t checksum_of(const std::string& text) {
  return checksum(std::as_bytes(std::span(text)));
}

Json to_json(const FileStamp& stamp) {
  return {{"file", stamp.file}, {"bytes", stamp.bytes}, {"xxh3", to_hex(stamp.checksum)}};
}

Json to_json(const BlockEntry& entry) {
  Json json = {{"round", entry.round}, {"block", entry.block}};
  json.update(to_json(entry.stamp));
  return json;
}

FileStamp stamp_from_json(const nlohmann::json& json) {
  FileStamp stamp{json.at("file").get<std::string>(), whole_number(json, "bytes"),
                  from_hex(json.at("xxh3").get<std::string>())};
  const bool plain = !stamp.file.empty() && stamp.file.front() != '.' &&
                     stamp.file.find_first_of(std::string("/\0", 2)) == std::string::npos;
  check<DataError>(plain, fmt::format("file name {}, expected one without folders", json.at("file").dump()));
  return stamp;
}

/// What the manifest's checksum covers: everything but itself.
Json contents_to_json(const Manifest& manifest) {
  Json entries = Json::array();
  for (const BlockEntry& entry : manifest.entries) entries.push_back(to_json(entry));
  Json links = Json::array();
  for (const FileStamp& stamp : manifest.links) links.push_back(to_json(stamp));
  return {{"format_version", kFormatVersion}, {"entries", std::move(entries)}, {"links", std::move(links)}};
}

auto key(const BlockEntry& entry) {
  return std::tuple(entry.round, entry.block);
}

BlockEntry entry_from_json(const nlohmann::json& json) {
  constexpr std::uint64_t kLargest = std::numeric_limits<std::uint32_t>::max();
  return {static_cast<std::uint32_t>(whole_number(json, "round", kLargest)),
          static_cast<std::uint32_t>(whole_number(json, "block", kLargest)), stamp_from_json(json)};
}

/// The checksum is compared with that of what was understood, so nothing can hide in what was not.
Manifest parse_manifest(const std::string& text) {
  const nlohmann::json json = model::parse_json(text, "its JSON");
  const std::uint64_t version = whole_number(json, "format_version");
  check<DataError>(version == kFormatVersion,
                   fmt::format("format_version {}, expected {}", version, kFormatVersion));
  Manifest manifest;
  for (const nlohmann::json& item : json.at("entries")) {
    BlockEntry entry = entry_from_json(item);
    check<DataError>(
        manifest.entries.empty() || key(manifest.entries.back()) < key(entry),
        fmt::format("round {}, block {} is out of order or occurs twice", entry.round, entry.block));
    manifest.entries.push_back(std::move(entry));
  }
  for (const nlohmann::json& item : json.at("links")) manifest.links.push_back(stamp_from_json(item));
  check<DataError>(
      checksum_of(contents_to_json(manifest).dump()) == from_hex(json.at("xxh3").get<std::string>()),
      "its content does not agree with its own checksum");
  return manifest;
}

/// Runs `parse`; what it finds wrong comes as a DataError that begins with `name`.
template <class Parse>
auto understood(const std::string& name, const std::string& expected, Parse parse) {
  try {
    return parse();
  } catch (const nlohmann::json::exception& error) {
    throw DataError(fmt::format("{}: damaged, expected {}: {}", name, expected, error.what()));
  } catch (const DataError& error) {
    throw DataError(fmt::format("{}: damaged: {}", name, error.what()));
  } catch (const ModelError& error) {  // no JSON
    throw DataError(fmt::format("{}: damaged: {}", name, error.what()));
  }
}

}  // namespace

const BlockEntry* Manifest::find(std::uint32_t round, std::uint32_t block) const {
  for (const BlockEntry& entry : entries)
    if (entry.round == round && entry.block == block) return &entry;
  return nullptr;
}

void Manifest::put(BlockEntry entry) {
  erase(entry.round, entry.block);
  const auto place =
      std::lower_bound(entries.begin(), entries.end(), entry,
                       [](const BlockEntry& a, const BlockEntry& b) { return key(a) < key(b); });
  entries.insert(place, std::move(entry));
}

void Manifest::erase(std::uint32_t round, std::uint32_t block) {
  std::erase_if(entries,
                [&](const BlockEntry& entry) { return entry.round == round && entry.block == block; });
}

std::string to_text(const Manifest& manifest) {
  Json json = contents_to_json(manifest);
  json["xxh3"] = to_hex(checksum_of(json.dump()));
  return json.dump(1) + "\n";
}

Manifest manifest_from_text(const std::string& text, const std::string& name) {
  return understood(name, "a manifest of fedspallm", [&] { return parse_manifest(text); });
}

std::string to_text(const BlockEntry& entry) {
  return to_json(entry).dump();
}

BlockEntry entry_from_text(const std::string& text) {
  return understood("an entry of a manifest", "one of a block file",
                    [&] { return entry_from_json(model::parse_json(text, "its JSON")); });
}

Manifest read_manifest(const std::filesystem::path& path) {
  return manifest_from_text(read_small_file(path, kLargestManifest), path.string());
}

void write_manifest(const std::filesystem::path& path, const Manifest& manifest) {
  write_file_atomically(path, to_text(manifest));
}

FileStamp stamp_of(const std::filesystem::path& path) {
  std::error_code error;
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  check<ResourceError>(!error,
                       fmt::format("{}: cannot ask for its size: {}", path.string(), error.message()));
  return {path.filename().string(), bytes, checksum_of_file(path)};
}

void verify(const std::filesystem::path& path, const FileStamp& stamp) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  check<DataError>(std::filesystem::exists(status),
                   fmt::format("{}: missing, but its manifest lists it", path.string()));
  check<DataError>(std::filesystem::is_regular_file(status),
                   fmt::format("{}: is not a regular file", path.string()));
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  check<DataError>(!error && bytes == stamp.bytes,
                   fmt::format("{}: torn: {} bytes, expected {} by its manifest", path.string(),
                               error ? 0 : bytes, stamp.bytes));
  const std::uint64_t found = checksum_of_file(path);
  check<DataError>(found == stamp.checksum,
                   fmt::format("{}: damaged: checksum {}, expected {} by its manifest", path.string(),
                               to_hex(found), to_hex(stamp.checksum)));
}

}  // namespace fedspallm::store
