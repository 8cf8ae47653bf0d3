// SPDX-License-Identifier: Apache-2.0
#include "link_file.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/data/hdf5.hpp"
#include "fedspallm/model/json_text.hpp"

#include <cmath>
#include <limits>

namespace fedspallm::store {

namespace {

namespace hdf5 = data::hdf5;
using Json = nlohmann::ordered_json;

constexpr const char* kKind = "fedspallm run";

/// Texts may come from anywhere (warnings, file names): bytes that are no UTF-8 are replaced, never an error.
std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

constexpr std::size_t kMostEntries = 1000;  // ordered_json looks for a key one by one

nlohmann::json parse(const hdf5::Group& root, const std::string& name, const std::string& text) {
  try {
    return model::parse_json(text, fmt::format("{}: /{}", root.file(), name));
  } catch (const ModelError& error) {
    throw DataError(error.what());
  }
}

void write_list(const hdf5::Group& root, const std::string& name, const std::vector<std::string>& items) {
  root.write_text(name, dump(Json(items)));
}

std::vector<std::string> read_list(const hdf5::Group& root, const std::string& name) {
  const nlohmann::json json = parse(root, name, root.read_text(name));
  check<DataError>(json.is_array(), fmt::format("{}: /{}: is not a JSON array", root.file(), name));
  std::vector<std::string> items;
  for (const nlohmann::json& item : json) {
    check<DataError>(item.is_string(), fmt::format("{}: /{}: holds more than strings", root.file(), name));
    items.push_back(item.get<std::string>());
  }
  return items;
}

std::vector<std::pair<std::string, std::string>> read_entries(const hdf5::Group& root) {
  const std::string text = root.read_text("provenance");
  const nlohmann::json checked = parse(root, "provenance", text);
  check<DataError>(
      checked.is_object() && checked.size() <= kMostEntries,
      fmt::format("{}: /provenance: is not a JSON object of at most {} keys", root.file(), kMostEntries));
  std::vector<std::pair<std::string, std::string>> entries;
  const Json ordered = Json::parse(text);
  for (const auto& [key, value] : ordered.items()) {
    check<DataError>(value.is_string(),
                     fmt::format("{}: /provenance: '{}' is not a string", root.file(), key));
    entries.emplace_back(key, value.get<std::string>());
  }
  return entries;
}

std::int64_t read_count(const hdf5::Group& root, const char* name, std::int64_t largest) {
  const std::int64_t value = root.read_integer(name);
  check<DataError>(value >= 0 && value <= largest, fmt::format("{}: attribute '{}' is {}, expected 0 to {}",
                                                               root.file(), name, value, largest));
  return value;
}

}  // namespace

void write_link_file(const std::filesystem::path& path, const LinkFile& content,
                     const std::vector<std::filesystem::path>& targets) {
  const Provenance& provenance = content.provenance;
  hdf5::File file = hdf5::File::create(path);
  const hdf5::Group& root = file.root();
  root.write_integer("format_version", kFormatVersion);
  root.write_string("kind", kKind);
  root.write_integer("complete", content.complete ? 1 : 0);
  root.write_integer("rounds", provenance.rounds);
  root.write_integer("block_count", provenance.blocks);
  root.write_double("sparsity", provenance.sparsity);
  root.write_text("config_toml", provenance.config_toml);
  Json entries = Json::object();
  for (const auto& [key, value] : provenance.entries) entries[key] = value;
  root.write_text("provenance", dump(entries));
  write_list(root, "clients", provenance.clients);
  write_list(root, "token_sha256", provenance.token_sha256);
  write_list(root, "warnings", provenance.warnings);
  const hdf5::Group blocks = root.create_group("blocks");
  for (const std::filesystem::path& target : targets)
    blocks.link_external(target.stem().string(), target.string());
  file.close();
}

LinkFile read_link_file(const std::filesystem::path& path) {
  const hdf5::File file = hdf5::File::open(path);
  const hdf5::Group& root = file.root();
  const std::int64_t version = root.read_integer("format_version");
  check<DataError>(version == kFormatVersion,
                   fmt::format("{}: format_version {}, expected {}", path.string(), version, kFormatVersion));
  check<DataError>(root.read_string("kind") == kKind,
                   fmt::format("{}: is not a {} file", path.string(), kKind));
  LinkFile content;
  content.complete = read_count(root, "complete", 1) == 1;
  Provenance& provenance = content.provenance;
  provenance.rounds = static_cast<int>(read_count(root, "rounds", std::numeric_limits<int>::max()));
  provenance.blocks = read_count(root, "block_count", std::numeric_limits<std::int64_t>::max());
  provenance.sparsity = root.read_double("sparsity");
  check<DataError>(std::isfinite(provenance.sparsity),
                   fmt::format("{}: attribute 'sparsity' is not finite", path.string()));
  provenance.config_toml = root.read_text("config_toml");
  provenance.entries = read_entries(root);
  provenance.clients = read_list(root, "clients");
  provenance.token_sha256 = read_list(root, "token_sha256");
  provenance.warnings = read_list(root, "warnings");
  return content;
}

}  // namespace fedspallm::store
