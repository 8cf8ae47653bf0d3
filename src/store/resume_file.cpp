// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/store/resume_file.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/model/json_text.hpp"
#include "fedspallm/store/json_fields.hpp"
#include "fedspallm/store/run_store.hpp"

#include "checksum_hex.hpp"
#include "file_io.hpp"
#include <limits>
#include <span>

namespace fedspallm::store {

namespace {

constexpr std::uint64_t kFormatVersion = 2;
constexpr std::int64_t kLargestFile = std::int64_t{64} << 20;

/// What the file's checksum covers: everything but itself.
nlohmann::json contents_to_json(const RunIdentity& identity) {
  return {{"format_version", kFormatVersion},
          {"run_id", to_hex(identity.run_id)},
          {"facts", identity.facts},
          {"dropped", to_json(identity.dropped)}};
}

std::uint64_t checksum_of(const nlohmann::json& contents) {
  const std::string text = contents.dump();
  return checksum(std::as_bytes(std::span(text)));
}

/// The checksum is compared with that of what was understood, so nothing can hide in what was not.
RunIdentity parse_identity(const std::string& text) {
  const nlohmann::json json = model::parse_json(text, "its JSON");
  const std::uint64_t version = whole_number(json, "format_version");
  check<DataError>(version == kFormatVersion,
                   fmt::format("format_version {}, expected {}", version, kFormatVersion));
  RunIdentity identity;
  identity.run_id = from_hex(json.at("run_id").get<std::string>());
  identity.facts = json.at("facts").get<std::map<std::string, std::string>>();
  identity.dropped = dropped_from_json(json.at("dropped"));
  check<DataError>(checksum_of(contents_to_json(identity)) == from_hex(json.at("xxh3").get<std::string>()),
                   "its content does not agree with its own checksum");
  return identity;
}

}  // namespace

nlohmann::json to_json(const std::vector<DroppedClient>& dropped) {
  nlohmann::json list = nlohmann::json::array();
  for (const DroppedClient& client : dropped)
    list.push_back({{"client", client.client},
                    {"round", client.from.round},
                    {"block", client.from.block},
                    {"reason", client.reason}});
  return list;
}

std::vector<DroppedClient> dropped_from_json(const nlohmann::json& list) {
  std::vector<DroppedClient> dropped;
  const auto number = [](const nlohmann::json& client, const char* key) {
    return static_cast<std::uint32_t>(whole_number(client, key, std::numeric_limits<std::uint32_t>::max()));
  };
  check<DataError>(list.is_array(), "'dropped' is no list");
  for (const nlohmann::json& client : list)
    dropped.push_back({number(client, "client"),
                       {number(client, "round"), number(client, "block")},
                       client.at("reason").get<std::string>()});
  return dropped;
}

void write_identity(const std::filesystem::path& file, const RunIdentity& identity) {
  nlohmann::json contents = contents_to_json(identity);
  contents["xxh3"] = to_hex(checksum_of(contents));
  write_file_atomically(file, contents.dump(1) + "\n");
}

std::optional<RunIdentity> read_identity(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error) && !error) return std::nullopt;
  const auto damaged = [&](const char* what) {
    return DataError(fmt::format("{}: damaged: {}; --restart starts over", file.string(), what));
  };
  const std::string text = read_small_file(file, kLargestFile);
  try {
    return parse_identity(text);
  } catch (const nlohmann::json::exception& problem) {
    throw damaged(problem.what());
  } catch (const DataError& problem) {
    throw damaged(problem.what());
  } catch (const ModelError& problem) {  // no JSON
    throw damaged(problem.what());
  }
}

}  // namespace fedspallm::store
