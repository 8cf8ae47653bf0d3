// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/model/json_text.hpp"

#include "fedspallm/base/error.hpp"

#include <fstream>
#include <set>
#include <vector>

namespace fedspallm::model {

namespace {

constexpr std::uintmax_t kLargestTextFile = 100'000'000;
constexpr std::size_t kLongestShown = 60;

// nlohmann's what() starts with "[json.exception.parse_error.101] ".
std::string_view without_tag(std::string_view message) {
  const auto end = message.find("] ");
  return message.starts_with('[') && end != std::string_view::npos ? message.substr(end + 2) : message;
}

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& file) {
  // nlohmann's parser takes a zero byte for the end of the text and would ignore what follows.
  check<ModelError>(text.find('\0') == std::string_view::npos,
                    fmt::format("{}: is not valid JSON: it holds a zero byte", file));
  std::vector<std::set<std::string>> open_objects;
  std::string duplicate;
  using Event = nlohmann::json::parse_event_t;
  const auto watch = [&](int depth, Event event, nlohmann::json& value) {
    check<ModelError>(
        depth < kDeepestJson,
        fmt::format("{}: is not valid JSON: lists or objects lie more than {} deep in each other", file,
                    kDeepestJson));
    if (event == Event::object_start) open_objects.emplace_back();
    if (event == Event::object_end) open_objects.pop_back();
    if (event == Event::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second && duplicate.empty()) duplicate = key;
    }
    return true;
  };
  nlohmann::json document;
  try {
    document = nlohmann::json::parse(text.begin(), text.end(), watch);
  } catch (const nlohmann::json::exception& error) {
    throw ModelError(fmt::format("{}: is not valid JSON: {}", file, without_tag(error.what())));
  }
  check<ModelError>(duplicate.empty(),
                    fmt::format("{}: the key '{}' occurs twice in one object", file, duplicate));
  return document;
}

std::string read_text_file(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  check<ModelError>(std::filesystem::exists(status), fmt::format("{}: no such file", path.string()));
  check<ModelError>(std::filesystem::is_regular_file(status),
                    fmt::format("{}: is not a regular file", path.string()));
  const auto size = std::filesystem::file_size(path, error);
  check<ModelError>(!error && size <= kLargestTextFile, fmt::format("{}: has {} bytes, expected at most {}",
                                                                    path.string(), size, kLargestTextFile));
  std::ifstream stream(path, std::ios::binary);
  std::string text(static_cast<std::size_t>(size), '\0');
  stream.read(text.data(), static_cast<std::streamsize>(size));
  check<ModelError>(static_cast<std::uintmax_t>(stream.gcount()) == size,
                    fmt::format("{}: cannot be read", path.string()));
  return text;
}

std::string show(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > kLongestShown) text = text.substr(0, kLongestShown) + "...";
  return text;
}

}  // namespace fedspallm::model
